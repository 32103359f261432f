package agent

import (
	"context"

	"mqlift/internal/store"
)

// inspectRequest is store.Options without what cannot cross the wire.
type inspectRequest struct {
	Dir         string `json:"dir"`
	FileSize    int64  `json:"fileSize,omitempty"`
	Root        string `json:"root,omitempty"`
	From        int64  `json:"from,omitempty"`
	To          int64  `json:"to,omitempty"`
	SkipBodyCRC bool   `json:"skipBodyCRC,omitempty"`
	Samples     int    `json:"samples,omitempty"`
	Workers     int    `json:"workers,omitempty"`
}

// Inspect walks and digests a commit log on its own host: store.Inspect, with the same options and
// errors. o.Progress is told the bytes done.
func (a *Agent) Inspect(ctx context.Context, dir string, o store.Options) (*store.Inspection, error) {
	r := inspectRequest{
		Dir: dir, FileSize: o.FileSize, Root: o.Root, From: o.From, To: o.To,
		SkipBodyCRC: o.SkipBodyCRC, Samples: o.Samples, Workers: o.Workers,
	}
	var onProgress func(Progress)
	if o.Progress != nil {
		onProgress = func(p Progress) { o.Progress(p.Done) }
	}
	return call[*store.Inspection](ctx, a, "inspect", r, onProgress)
}

func inspect(ctx context.Context, r inspectRequest, s *session) (*store.Inspection, error) {
	progress := s.progress()
	return store.Inspect(ctx, r.Dir, store.Options{
		FileSize: r.FileSize, Root: r.Root, From: r.From, To: r.To,
		SkipBodyCRC: r.SkipBodyCRC, Samples: r.Samples, Workers: r.Workers,
		Progress: func(done int64) { progress(done, 0) },
	})
}

// ConsumeQueueEnd is the highest physical offset that the consume queues under a store root reach,
// -1 when they refer to no message: store.MaxConsumeQueueOffset.
func (a *Agent) ConsumeQueueEnd(ctx context.Context, root string) (int64, error) {
	return call[int64](ctx, a, "consume-queue-end", root, nil)
}

// IndexEnd is the highest physical offset that the index under a store root refers to, -1 when it
// refers to none: store.MaxIndexOffset.
func (a *Agent) IndexEnd(ctx context.Context, root string) (int64, error) {
	return call[int64](ctx, a, "index-end", root, nil)
}

func consumeQueueEnd(ctx context.Context, root string, _ *session) (int64, error) {
	return store.MaxConsumeQueueOffset(ctx, root)
}

func indexEnd(ctx context.Context, root string, _ *session) (int64, error) {
	return store.MaxIndexOffset(ctx, root)
}
