package store

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sort"
	"time"

	"mqlift/internal/diag"
)

// Certificate says whether copies of a commit log agree in what a first start as DLedger takes from
// them: the files, the first byte kept, the end, and every valid byte between. Offsets are physical.
type Certificate struct {
	Members  []string  `json:"members"` // sorted
	FileSize int64     `json:"fileSize"`
	Files    []string  `json:"files"` // names, in order, of the files up to End
	First    int64     `json:"first"`
	End      int64     `json:"end"`
	Divided  int64     `json:"divided"` // where DLedger's own log will begin
	From     int64     `json:"from"`    // bytes are compared from here to End
	Bytes    int64     `json:"bytes"`   // that were compared, per member
	Messages int64     `json:"messages"`
	Last     time.Time `json:"last"` // when the last message was stored

	// Whole tells that every member was walked to its end; if not, nothing is said about what
	// follows End.
	Whole bool `json:"whole"`
	// Digest stands for all of the above but the members: equal digests, equal logs. 64 hex digits.
	Digest string `json:"digest"`
	// Logs tells what each member has, by member.
	Logs []LogSummary `json:"logs,omitempty"`
	// Differences is empty when the copies agree from From to End.
	Differences []Difference `json:"differences,omitempty"`
	// FirstByte is where the copies begin to differ, once Explain has looked.
	FirstByte *FirstByte `json:"firstByte,omitempty"`
	// Notes are differences and oddities that do no harm.
	Notes diag.Findings `json:"notes,omitempty"`
}

// LogSummary is one member's log in a certificate, and what was found of its queues and index when they
// were looked at.
type LogSummary struct {
	Member   string `json:"member"`
	Dir      string `json:"dir"`
	First    int64  `json:"first"`
	End      int64  `json:"end"`
	Files    int    `json:"files"`    // up to End
	LastFile string `json:"lastFile"` // the one that End is in
	Messages int64  `json:"messages"` // in the range that was walked
	Digest   string `json:"digest"`   // as Certificate.Digest, of this member's log
	Queues   int    `json:"queues,omitempty"`
	Entries  int64  `json:"queueEntries,omitempty"`
	Keys     int64  `json:"indexEntries,omitempty"`
}

// What a Difference is about.
const (
	DiffMember  = "member"  // this copy is damaged by itself, or empty
	DiffFiles   = "files"   // other files, or files of other length
	DiffFirst   = "first"   // begins elsewhere
	DiffEnd     = "end"     // ends elsewhere: shorter or longer
	DiffDivided = "divided" // DLedger's log would begin elsewhere
	DiffBytes   = "bytes"   // other bytes at an offset that both have
	DiffRange   = "range"   // not inspected in the same range, hence not comparable
)

// Difference is one way in which a member does not agree with the reference, which is the member
// whose log reaches furthest (the first by name of several).
type Difference struct {
	Kind      string       `json:"kind"`
	Member    string       `json:"member"`
	Reference string       `json:"reference"`
	Offset    int64        `json:"offset"` // where it begins; for bytes, the first chunk that differs
	Finding   diag.Finding `json:"finding"`
}

// OK tells that the copies are proven equal, to their ends.
func (c Certificate) OK() bool { return c.Whole && len(c.Differences) == 0 }

// Short is the part of the digest that is shown to people.
func (c Certificate) Short() string { return c.Digest[:min(12, len(c.Digest))] }

// Findings are the differences as findings, and the notes.
func (c Certificate) Findings() diag.Findings {
	var l diag.Findings
	if c.FirstByte != nil {
		l.Add(c.FirstByte.finding())
	}
	for _, d := range c.Differences {
		l.Add(d.Finding)
	}
	return append(l, c.Notes...)
}

// Err is nil when OK, and otherwise says every difference.
func (c Certificate) Err() error {
	if err := c.Findings().Err(); err != nil {
		return err
	}
	if !c.Whole {
		return &diag.Error{Findings: diag.Findings{{Check: "store.certificate", Severity: diag.Fail,
			What: fmt.Sprintf("the commit logs were compared up to offset %d only, not to their ends", c.End),
			Do:   "inspect them without an upper bound"}}}
	}
	return nil
}

// Compare compares inspections by member name. Two members or more are needed for a proof; fewer
// are a difference. The digest is that of the reference, and worth something only without differences.
func Compare(members map[string]*Inspection) Certificate {
	names := slices.Sorted(maps.Keys(members))
	c := Certificate{Members: names}
	differ := func(kind, member, reference string, offset int64, what, do string) {
		where := ""
		if in := members[member]; in != nil {
			where = in.Dir
		}
		c.Differences = append(c.Differences, Difference{kind, member, reference, offset,
			diag.Finding{Check: "store." + kind, Severity: diag.Fail, Host: member, Where: where, What: what, Do: do}})
	}
	var usable []string
	for _, name := range names {
		in := members[name]
		if in == nil || len(in.Files) == 0 {
			differ(DiffMember, name, "", 0, "there is no commit log", "copy the commit log to this host")
			continue
		}
		usable = append(usable, name)
		for _, f := range in.Findings {
			f.Host = cmp.Or(f.Host, name)
			if f.Severity == diag.Fail {
				c.Differences = append(c.Differences, Difference{DiffMember, name, "", in.End, f})
			} else {
				c.Notes.Add(f)
			}
		}
	}
	if len(names) < 2 {
		differ(DiffMember, "", "", 0, "there is no second copy to compare with", "inspect at least two hosts")
	}
	reference := c.reference(members)
	if reference == "" {
		return c
	}
	ref := members[reference]
	c.FileSize, c.First, c.End, c.Divided = ref.FileSize, ref.First, ref.End, ref.Divided
	c.Messages, c.Last, c.From, c.Whole = ref.Messages, ref.Last, ref.From, true
	for _, name := range usable {
		c.From = max(c.From, members[name].From)
		c.Whole = c.Whole && !members[name].Bounded
	}
	c.From = max(c.First, chunkStart(ref.FileSize, c.From))

	for _, name := range usable {
		if name == reference {
			continue
		}
		in := members[name]
		c.compareFiles(name, in, reference, ref, differ)
		if in.First != ref.First {
			differ(DiffFirst, name, reference, min(in.First, ref.First),
				fmt.Sprintf("the log begins at %d, on %s at %d", in.First, reference, ref.First),
				"bring the missing files from the other host, or let retention delete the same files on both")
		}
		if in.Bounded != ref.Bounded {
			differ(DiffRange, name, reference, in.To, "one of the two was inspected to its end and the other was not", "inspect both alike")
		}
		if in.End < ref.End {
			differ(DiffEnd, name, reference, in.End,
				fmt.Sprintf("the log ends at %d, %d bytes before that of %s (%d)", in.End, ref.End-in.End, reference, ref.End),
				fmt.Sprintf("copy the tail from %s, and inspect again", reference))
		} else if in.Divided != ref.Divided {
			differ(DiffDivided, name, reference, in.End,
				fmt.Sprintf("DLedger's log would begin at %d, on %s at %d", in.Divided, reference, ref.Divided),
				fmt.Sprintf("copy the tail from %s, the file that it ends in included, and inspect again", reference))
		}
		c.compareChunks(name, in, reference, ref, differ)
	}
	for _, f := range ref.Files {
		if f.Base < ref.Divided {
			c.Files = append(c.Files, f.Name)
		}
	}
	c.Digest = c.digest(ref)
	for _, name := range usable {
		c.Logs = append(c.Logs, c.summary(name, members[name]))
	}
	return c
}

// reference is the member whose log reaches furthest, the first by name of several; "" without any.
func (c *Certificate) reference(members map[string]*Inspection) string {
	best := ""
	for _, name := range c.Members {
		if in := members[name]; in != nil && len(in.Files) > 0 && (best == "" || in.End > members[best].End) {
			best = name
		}
	}
	return best
}

func (c *Certificate) summary(name string, in *Inspection) LogSummary {
	s := LogSummary{Member: name, Dir: in.Dir, First: in.First, End: in.End, Messages: in.Messages, Digest: c.digest(in)}
	for _, f := range in.Files {
		if f.Base < in.Divided {
			s.Files++
			s.LastFile = f.Name
		}
	}
	if d := in.Derived; d != nil {
		s.Queues, s.Entries, s.Keys = len(d.Queues), d.Entries, d.Keys
	}
	return s
}

type differFunc func(kind, member, reference string, offset int64, what, do string)

// compareFiles demands the same files up to the one that the reference ends in. Empty files after
// it are deleted by a first start (CommitLog.recoverNormally, truncateDirtyFiles) and only noted.
func (c *Certificate) compareFiles(name string, in *Inspection, reference string, ref *Inspection, differ differFunc) {
	if in.FileSize != ref.FileSize {
		differ(DiffFiles, name, reference, in.First,
			fmt.Sprintf("commit log files have %d bytes, on %s %d", in.FileSize, reference, ref.FileSize),
			"mappedFileSizeCommitLog and the files must be the same on all hosts")
		return
	}
	list := func(in *Inspection) (files, extra []string) {
		for _, f := range in.Files {
			switch {
			case f.Base < ref.Divided:
				files = append(files, f.Name)
			case !in.Bounded:
				extra = append(extra, f.Name)
			}
		}
		return files, extra
	}
	want, wantExtra := list(ref)
	got, gotExtra := list(in)
	for _, f := range missing(want, got) {
		base, _ := ParseFileName(f)
		differ(DiffFiles, name, reference, base, fmt.Sprintf("file %s is missing; %s has it", f, reference),
			fmt.Sprintf("copy it from %s", reference))
	}
	for _, f := range missing(got, want) {
		base, _ := ParseFileName(f)
		differ(DiffFiles, name, reference, base, fmt.Sprintf("file %s is too many; %s does not have it", f, reference),
			"bring it to the other host, or move it away")
	}
	if !slices.Equal(wantExtra, gotExtra) {
		c.Notes.Add(diag.Finding{Check: "store.prepared", Severity: diag.Warn, Host: name, Where: in.Dir,
			What: fmt.Sprintf("files after the log's end differ: %q here, %q on %s; a first start deletes them", gotExtra, wantExtra, reference)})
	}
}

// missing are the elements of want that got lacks.
func missing(want, got []string) []string {
	return slices.DeleteFunc(slices.Clone(want), func(f string) bool { return slices.Contains(got, f) })
}

func (c *Certificate) compareChunks(name string, in *Inspection, reference string, ref *Inspection, differ differFunc) {
	other := map[int64]Chunk{}
	for _, chunk := range in.Chunks {
		other[chunk.Offset] = chunk
	}
	bytes := int64(0)
	for _, want := range ref.Chunks {
		if want.Offset < c.From {
			continue
		}
		got, ok := other[want.Offset]
		if got == want {
			bytes += want.Length
			continue
		}
		if want.Offset+want.Length > in.End {
			break // the shorter copy ends in this chunk, which says nothing about its bytes
		}
		if !ok {
			differ(DiffRange, name, reference, want.Offset,
				fmt.Sprintf("from offset %d on there is no digest; %s has one", want.Offset, reference), "inspect both in the same range")
			break
		}
		differ(DiffBytes, name, reference, want.Offset,
			fmt.Sprintf("the bytes from offset %d on (%d here, %d on %s) are not the same", want.Offset, got.Length, want.Length, reference),
			"find out which copy is right (a master and its slave differ like this after a master was replaced), and copy from there again")
		break
	}
	if c.Bytes == 0 || bytes < c.Bytes {
		c.Bytes = bytes
	}
}

// digest stands for one member's log from c.From on.
func (c *Certificate) digest(in *Inspection) string {
	h := sha256.New()
	fmt.Fprintf(h, "mqlift commit log 1\nfile size %d\nfirst %d\nend %d\ndivided %d\nwhole %t\nfrom %d\n",
		in.FileSize, in.First, in.End, in.Divided, c.Whole, c.From)
	for _, f := range in.Files {
		if f.Base < in.Divided {
			fmt.Fprintln(h, "file", f.Name)
		}
	}
	for _, chunk := range in.Chunks {
		if chunk.Offset >= c.From {
			fmt.Fprintln(h, "chunk", chunk.Offset, chunk.Length, chunk.SHA256)
		}
	}
	return hex.EncodeToString(h.Sum(nil))
}

// chunkStart is where the chunk that offset stands in begins.
func chunkStart(fileSize, offset int64) int64 {
	if fileSize <= 0 {
		return offset
	}
	return max(offset/fileSize*fileSize, offset/ChunkSize*ChunkSize)
}

// inMessages tells findings about messages from those about a log's end.
func inMessages(f diag.Finding) bool {
	return f.Check == "store.crc" || f.Check == "store.offset" || f.Check == "store.unreadable"
}

// ErrNotAdjacent says that two inspections cannot be joined.
var ErrNotAdjacent = errors.New("inspections do not follow one another")

// Join makes one inspection of two of the same log: an earlier one, and a later one whose From is
// where the earlier one ended. So a long log is digested once, ahead, and only its tail when it
// counts. Files that retention deleted in between are left out.
func Join(earlier, later *Inspection) (*Inspection, error) {
	if later.From != earlier.To && !(later.First >= earlier.To && later.From == later.First) ||
		earlier.FileSize != later.FileSize {
		return nil, fmt.Errorf("commit log %s: %d..%d of files of %d bytes, %d..%d of files of %d: %w", later.Dir,
			earlier.From, earlier.To, earlier.FileSize, later.From, later.To, later.FileSize, ErrNotAdjacent)
	}
	j := *later
	cut := chunkStart(later.FileSize, later.From)
	j.From = max(earlier.From, later.First)
	j.Chunks = nil
	for _, c := range earlier.Chunks {
		if c.Offset >= later.First && c.Offset < cut {
			j.Chunks = append(j.Chunks, c)
		}
	}
	j.Chunks = append(j.Chunks, later.Chunks...)
	j.Samples = slices.Concat(slices.DeleteFunc(slices.Clone(earlier.Samples),
		func(s Sample) bool { return s.Offset < later.First }), later.Samples)
	j.Files = slices.Clone(later.Files)
	for _, f := range earlier.Files {
		i := sort.Search(len(j.Files), func(i int) bool { return j.Files[i].Base >= f.Base })
		if i < len(j.Files) && j.Files[i].Base == f.Base && f.Base+f.Size > earlier.From {
			j.Files[i].Messages += f.Messages
		}
	}
	j.Messages = 0
	for _, f := range j.Files {
		j.Messages += f.Messages
	}
	if later.Messages == 0 {
		j.Last = earlier.Last
	}
	// What is wrong in the earlier part stays wrong; what was said of its tail is said again, rightly.
	j.Findings = slices.Clone(later.Findings)
	for _, f := range earlier.Findings {
		if inMessages(f) && !slices.Contains(j.Findings, f) {
			j.Findings.Add(f)
		}
	}
	return &j, nil
}
