package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"mqlift/internal/diag"
	"mqlift/internal/message"
)

// Copy is one copy of a commit log, wherever it lies. Offsets are physical.
type Copy interface {
	// Digests are SHA-256 of from..to in steps of that many bytes, in hexadecimal digits.
	Digests(ctx context.Context, from, to, step int64) ([]string, error)
	// Bytes are those from..to, at most MaxBytes.
	Bytes(ctx context.Context, from, to int64) ([]byte, error)
	// At tells what stands at an offset.
	At(ctx context.Context, offset int64) (Place, error)
}

// MaxBytes is the most that Copy.Bytes gives at a time.
const MaxBytes = 64 << 10

// What stands at a Place.
const (
	PlaceMessage = "message"
	PlaceBlank   = "end-of-file mark"
	PlaceNothing = "nothing" // zeros, left-overs, or what no message can be read from
)

// Place is what stands at an offset of a commit log. All but Kind and Offset is of a message.
type Place struct {
	Kind        string    `json:"kind"`
	Offset      int64     `json:"offset"` // where it begins
	Size        int64     `json:"size,omitempty"`
	Topic       string    `json:"topic,omitempty"`
	QueueID     int32     `json:"queueId,omitempty"`
	QueueOffset int64     `json:"queueOffset,omitempty"`
	Keys        []string  `json:"keys,omitempty"`
	ID          string    `json:"id,omitempty"`       // given by the producer
	OffsetID    string    `json:"offsetId,omitempty"` // given by the broker
	Stored      time.Time `json:"stored,omitzero"`
}

// String is the place as people say it.
func (p Place) String() string {
	switch p.Kind {
	case PlaceMessage:
	case PlaceBlank:
		return fmt.Sprintf("the end-of-file mark at %d", p.Offset)
	default:
		return fmt.Sprintf("nothing that can be read (since %d)", p.Offset)
	}
	keys := "no key"
	if len(p.Keys) > 0 {
		keys = "key " + strings.Join(p.Keys, " ")
	}
	id := p.OffsetID
	if p.ID != "" {
		id = p.ID
	}
	return fmt.Sprintf("the message at %d: topic %s, %s, queue %d at %d, stored %s, id %s",
		p.Offset, p.Topic, keys, p.QueueID, p.QueueOffset, p.Stored.UTC().Format("2006-01-02 15:04:05.000"), id)
}

// Local is a copy on this machine.
type Local struct {
	Dir      string
	FileSize int64 // length of each of its files
}

// Digests implements Copy.
func (c Local) Digests(ctx context.Context, from, to, step int64) ([]string, error) {
	if step <= 0 || from < 0 || (to-from)/max(step, 1) > 1<<16 {
		return nil, fmt.Errorf("digests of %d..%d in steps of %d are too many", from, to, step)
	}
	var l []string
	for ; from < to; from += step {
		h := sha256.New()
		for at, end := from, min(from+step, to); at < end; at += MaxBytes {
			b, err := c.Bytes(ctx, at, min(at+MaxBytes, end))
			if err != nil {
				return nil, err
			}
			h.Write(b)
		}
		l = append(l, hex.EncodeToString(h.Sum(nil)))
	}
	return l, nil
}

// Bytes implements Copy.
func (c Local) Bytes(ctx context.Context, from, to int64) ([]byte, error) {
	if from < 0 || to < from || to-from > MaxBytes || c.FileSize <= 0 {
		return nil, fmt.Errorf("%d..%d cannot be read at once", from, to)
	}
	b := make([]byte, to-from)
	for at := from; at < to; {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		base := at / c.FileSize * c.FileSize
		n := min(to, base+c.FileSize) - at
		f, err := os.Open(filepath.Join(c.Dir, FileName(base)))
		if err != nil {
			return nil, err
		}
		_, err = f.ReadAt(b[at-from:at-from+n], at-base)
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("commit log: %s: %w", f.Name(), err)
		}
		at += n
	}
	return b, nil
}

// At implements Copy. It walks the file that the offset is in, since only from its first byte on the
// bounds of messages are certain.
func (c Local) At(ctx context.Context, offset int64) (p Place, err error) {
	if offset < 0 || c.FileSize <= 0 {
		return p, fmt.Errorf("there is no offset %d", offset)
	}
	base := offset / c.FileSize * c.FileSize
	path := filepath.Join(c.Dir, FileName(base))
	f, err := os.Open(path)
	if err != nil {
		return p, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return p, err
	}
	if info.Size() == 0 {
		return Place{Kind: PlaceNothing, Offset: base}, nil
	}
	b, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return p, fmt.Errorf("map %s: %w", path, err)
	}
	defer unix.Munmap(b)
	err = guard(path, func() error {
		pos := int64(0)
		for steps := 0; pos < int64(len(b)); steps++ {
			if steps%4096 == 0 && ctx.Err() != nil {
				return context.Cause(ctx)
			}
			l, err := message.LayoutOf(b[pos:])
			if errors.Is(err, message.ErrBlank) {
				p = Place{Kind: PlaceBlank, Offset: base + pos}
				return nil
			}
			if err != nil {
				break
			}
			if next := pos + int64(l.Size); base+next <= offset {
				pos = next
				continue
			}
			m, err := message.Decode(b[pos:])
			if err != nil {
				break
			}
			p = Place{Kind: PlaceMessage, Offset: base + pos, Size: int64(m.Size), Topic: m.Topic, QueueID: m.QueueID,
				QueueOffset: m.QueueOffset, Keys: m.Keys(), ID: strings.Clone(m.UniqueKey()), OffsetID: m.OffsetID(), Stored: m.Stored}
			return nil
		}
		p = Place{Kind: PlaceNothing, Offset: base + pos}
		return nil
	})
	return p, err
}

// FirstDifference is the first offset in from..to at which two copies have different bytes; false when
// they have the same ones. Digests of ever smaller parts are compared first, so that little is moved.
func FirstDifference(ctx context.Context, a, b Copy, from, to int64) (int64, bool, error) {
	const parts = 256
	for to-from > MaxBytes {
		step := max(MaxBytes/2, (to-from+parts-1)/parts)
		x, err := a.Digests(ctx, from, to, step)
		if err != nil {
			return 0, false, err
		}
		y, err := b.Digests(ctx, from, to, step)
		if err != nil {
			return 0, false, err
		}
		i := 0
		for i < len(x) && i < len(y) && x[i] == y[i] {
			i++
		}
		if i == len(x) && i == len(y) {
			return 0, false, nil
		}
		from += int64(i) * step
		to = min(to, from+step)
	}
	if from >= to {
		return 0, false, nil
	}
	x, err := a.Bytes(ctx, from, to)
	if err != nil {
		return 0, false, err
	}
	y, err := b.Bytes(ctx, from, to)
	if err != nil {
		return 0, false, err
	}
	for i := range min(len(x), len(y)) {
		if x[i] != y[i] {
			return from + int64(i), true, nil
		}
	}
	return 0, false, nil
}

// FirstByte is the first byte of a log that not all copies have alike.
type FirstByte struct {
	Offset int64    `json:"offset"`
	Has    []Having `json:"has"` // sides, the larger one first
	// Ahead is the member whose log reaches furthest, and by how much others are behind it.
	Ahead  string   `json:"ahead"`
	Behind []Behind `json:"behind,omitempty"`
}

// Having is what some copies have at the first byte that differs.
type Having struct {
	Members []string `json:"members"`
	Ends    bool     `json:"ends,omitempty"`  // the log ends there
	Lacks   bool     `json:"lacks,omitempty"` // the log has no file there, and goes on after it
	Byte    byte     `json:"byte"`
	Place   Place    `json:"place"`
}

// Behind is by how much a copy is shorter than the longest.
type Behind struct {
	Member   string `json:"member"`
	Bytes    int64  `json:"bytes"`
	Messages int64  `json:"messages"` // that it lacks; -1 where it has others instead, or they were not counted
}

// Where says where the first byte is and who has what there.
func (f FirstByte) Where() string {
	var has []string
	for _, h := range f.Has {
		who := strings.Join(h.Members, " and ")
		switch {
		case h.Ends:
			has = append(has, who+" ends there")
		case h.Lacks:
			has = append(has, who+" has no file there, only later ones")
		default:
			has = append(has, fmt.Sprintf("%s has 0x%02x, in %s", who, h.Byte, h.Place))
		}
	}
	return fmt.Sprintf("the first byte that differs is at offset %d: %s", f.Offset, strings.Join(has, "; "))
}

// String is Where, and which copy is ahead.
func (f FirstByte) String() string {
	s := f.Where()
	for i, b := range f.Behind {
		if i == 0 {
			s += fmt.Sprintf("; %s is ahead", f.Ahead)
		}
		s += fmt.Sprintf(", of %s by %d bytes", b.Member, b.Bytes)
		if b.Messages >= 0 {
			s += fmt.Sprintf(" and %d messages", b.Messages)
		}
	}
	if len(f.Behind) == 0 {
		s += "; all end at the same offset"
	}
	return s
}

// Explain finds the first byte that differs, of a certificate that does not hold, by reading the copies
// once more where they may differ. members is what Compare was given. A member without a copy to read is
// left out; that nothing can be said is no error.
func (c *Certificate) Explain(ctx context.Context, members map[string]*Inspection, copies map[string]Copy) error {
	reference := c.reference(members)
	if reference == "" || copies[reference] == nil || len(c.Differences) == 0 {
		return nil
	}
	ref := members[reference]
	var names []string
	for _, name := range c.Members {
		if in := members[name]; copies[name] != nil && in != nil && len(in.Files) > 0 && in.FileSize == ref.FileSize {
			names = append(names, name)
		}
	}
	first := int64(-1)
	for _, name := range names {
		if name == reference {
			continue
		}
		at, found, err := c.firstOf(ctx, members[name], ref, copies[name], copies[reference])
		if err != nil {
			return fmt.Errorf("looking for the first byte that differs on %s and %s: %w", name, reference, err)
		}
		if found && (first < 0 || at < first) {
			first = at
		}
	}
	if first < 0 {
		return nil
	}
	f := &FirstByte{Offset: first, Ahead: reference}
	for _, name := range names {
		in := members[name]
		if behind := ref.End - in.End; behind > 0 {
			b := Behind{Member: name, Bytes: behind, Messages: -1}
			if first == in.End && in.From == ref.From && in.Findings.Err() == nil {
				b.Messages = ref.Messages - in.Messages
			}
			f.Behind = append(f.Behind, b)
		}
		h, err := having(ctx, in, copies[name], first)
		if err != nil {
			return fmt.Errorf("%s: looking at offset %d: %w", name, first, err)
		}
		i := slices.IndexFunc(f.Has, func(x Having) bool {
			return x.Ends == h.Ends && x.Lacks == h.Lacks && x.Byte == h.Byte && x.Place.Kind == h.Place.Kind && x.Place.Offset == h.Place.Offset && x.Place.ID == h.Place.ID
		})
		if i < 0 {
			f.Has = append(f.Has, h)
			i = len(f.Has) - 1
		}
		f.Has[i].Members = append(f.Has[i].Members, name)
	}
	slices.SortStableFunc(f.Has, func(a, b Having) int { return len(b.Members) - len(a.Members) })
	c.FirstByte = f
	return nil
}

// firstOf finds where one copy begins to differ from the reference: at other bytes, or at its end.
func (c *Certificate) firstOf(ctx context.Context, in, ref *Inspection, a, b Copy) (int64, bool, error) {
	if in.First > ref.First {
		return ref.First, true, nil
	}
	if in.First < ref.First {
		return in.First, true, nil
	}
	other := map[int64]Chunk{}
	for _, chunk := range in.Chunks {
		other[chunk.Offset] = chunk
	}
	for _, want := range ref.Chunks {
		got := other[want.Offset]
		if want.Offset < c.From || got == want {
			continue
		}
		if want.Offset >= in.End {
			break
		}
		end := want.Offset + want.Length
		if got.Length > 0 {
			end = min(end, got.Offset+got.Length)
		}
		end = min(end, (want.Offset/ref.FileSize+1)*ref.FileSize)
		at, found, err := FirstDifference(ctx, a, b, want.Offset, end)
		if errors.Is(err, fs.ErrNotExist) { // a file that only one of them has
			return want.Offset, true, nil
		}
		if err != nil || found {
			return at, found, err
		}
		if got.Length < want.Length && in.End > end {
			return end, true, nil // its part ends there, and it goes on in the next file
		}
	}
	if in.End < ref.End && in.Trailing != nil { // it does not just end: what stands there cannot be read
		end := min(ref.End, (in.End/ref.FileSize+1)*ref.FileSize)
		return FirstDifference(ctx, a, b, in.End, end)
	}
	return in.End, in.End < ref.End, nil
}

func having(ctx context.Context, in *Inspection, log Copy, at int64) (Having, error) {
	if at >= in.End && !in.Bounded && in.Trailing == nil {
		return Having{Ends: true}, nil
	}
	if at < in.First {
		return Having{Lacks: true}, nil
	}
	b, err := log.Bytes(ctx, at, at+1)
	if errors.Is(err, fs.ErrNotExist) {
		return Having{Ends: at >= in.End, Lacks: at < in.End}, nil
	}
	if err != nil {
		return Having{}, err
	}
	h := Having{Byte: b[0]}
	h.Place, err = log.At(ctx, at)
	return h, err
}

// finding is the first byte that differs as a finding.
func (f FirstByte) finding() diag.Finding {
	return diag.Finding{Check: "store.first-difference", Severity: diag.Fail, What: f.String(),
		Do: "copy from the right one (the master, unless it was replaced), from there on"}
}
