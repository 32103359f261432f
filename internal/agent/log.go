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
	Derived     bool   `json:"derived,omitempty"`
}

// Inspect walks and digests a commit log on its own host: store.Inspect, with the same options and
// errors. o.Progress is told the bytes done.
func (a *Agent) Inspect(ctx context.Context, dir string, o store.Options) (*store.Inspection, error) {
	r := inspectRequest{
		Dir: dir, FileSize: o.FileSize, Root: o.Root, From: o.From, To: o.To,
		SkipBodyCRC: o.SkipBodyCRC, Samples: o.Samples, Workers: o.Workers, Derived: o.Derived,
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
		SkipBodyCRC: r.SkipBodyCRC, Samples: r.Samples, Workers: r.Workers, Derived: r.Derived,
		Progress: func(done int64) { progress(done, 0) },
	})
}

// logRange is a part of a commit log on the agent's host.
type logRange struct {
	Dir      string `json:"dir"`
	FileSize int64  `json:"fileSize"`
	From     int64  `json:"from"`
	To       int64  `json:"to,omitempty"`
	Step     int64  `json:"step,omitempty"`
}

// CommitLog is a commit log on the agent's host, to be compared with copies elsewhere: a store.Copy.
func (a *Agent) CommitLog(dir string, fileSize int64) store.Copy { return remoteLog{a, dir, fileSize} }

type remoteLog struct {
	agent    *Agent
	dir      string
	fileSize int64
}

func (l remoteLog) Digests(ctx context.Context, from, to, step int64) ([]string, error) {
	return call[[]string](ctx, l.agent, "log-digests", logRange{l.dir, l.fileSize, from, to, step}, nil)
}

func (l remoteLog) Bytes(ctx context.Context, from, to int64) ([]byte, error) {
	return call[[]byte](ctx, l.agent, "log-bytes", logRange{Dir: l.dir, FileSize: l.fileSize, From: from, To: to}, nil)
}

func (l remoteLog) At(ctx context.Context, offset int64) (store.Place, error) {
	return call[store.Place](ctx, l.agent, "log-place", logRange{Dir: l.dir, FileSize: l.fileSize, From: offset}, nil)
}

func (r logRange) local() store.Local { return store.Local{Dir: r.Dir, FileSize: r.FileSize} }

func logDigests(ctx context.Context, r logRange, _ *session) ([]string, error) {
	return r.local().Digests(ctx, r.From, r.To, r.Step)
}

func logBytes(ctx context.Context, r logRange, _ *session) ([]byte, error) {
	return r.local().Bytes(ctx, r.From, r.To)
}

func logPlace(ctx context.Context, r logRange, _ *session) (store.Place, error) {
	return r.local().At(ctx, r.From)
}

// Metadata reads the config/*.json under a store root: store.ReadMetadata.
func (a *Agent) Metadata(ctx context.Context, root string) (*store.Metadata, error) {
	return call[*store.Metadata](ctx, a, "metadata", root, nil)
}

func readMetadata(_ context.Context, root string, _ *session) (*store.Metadata, error) {
	return store.ReadMetadata(root)
}
