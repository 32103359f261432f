package store

import "slices"

// CommonEnd is the smallest end of several logs: where those that are being written can be compared.
func CommonEnd(members map[string]*Inspection) int64 {
	end := int64(-1)
	for _, in := range members {
		if len(in.Files) > 0 && (end < 0 || in.End < end) {
			end = in.End
		}
	}
	return max(end, 0)
}

// TailFor says what Bound needs: the options of an inspection of the file in which end is.
func (in *Inspection) TailFor(end int64) Options {
	return Options{FileSize: in.FileSize, From: max(in.First, (max(end, 1)-1)/in.FileSize*in.FileSize), To: end}
}

// Bound makes of a whole inspection one that ends at tail.To, where tail is one made with TailFor. What
// was found of the log's own end, of queues and of index is left out.
func (in *Inspection) Bound(tail *Inspection) *Inspection {
	b := *in
	b.End, b.To, b.Bounded, b.Divided = tail.To, tail.To, true, tail.Divided
	b.Messages, b.Last = tail.Messages, tail.Last
	b.Trailing, b.DividedBlank, b.Derived, b.Samples = nil, false, nil, nil
	b.Files = slices.DeleteFunc(slices.Clone(in.Files), func(f LogFile) bool { return f.Base >= tail.Divided })
	for i, f := range b.Files {
		if f.Base < tail.From {
			b.Messages += f.Messages
			continue
		}
		b.Files[i].Messages = tail.Messages
	}
	b.Chunks = slices.DeleteFunc(slices.Clone(in.Chunks), func(c Chunk) bool { return c.Offset >= tail.From })
	for _, c := range tail.Chunks {
		if c.Offset >= tail.From {
			b.Chunks = append(b.Chunks, c)
		}
	}
	b.Findings = nil
	for _, f := range in.Findings {
		if inMessages(f) {
			b.Findings.Add(f)
		}
	}
	return &b
}
