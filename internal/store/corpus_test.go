package store_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"mqlift/internal/corpus"
	"mqlift/internal/message"
	"mqlift/internal/store"
	"mqlift/internal/store/storetest"
)

// What an inspection says about each store of testdata/stores. A case tells how the store was made, one
// directive a line: a good log first, then what became of it. Offsets are numbers, mN for where message N
// begins, last, or end, each also with +K or -K; names are paths below the store's root, where
// @OFFSET is the commit log file of that offset.
//
//	log SIZE [FIRST]        commit log files of SIZE bytes, the first of offset FIRST
//	prepared N              N empty files are kept ahead from here on
//	fill N SIZE             N messages with bodies of SIZE bytes
//	tear N                  the first N bytes of one message more, of 300 bytes and some
//	blank                   an end-of-file mark at the end, and no next file
//	put OFFSET BYTES        bytes (see corpus.Bytes) over what is there
//	file NAME BYTES         a file, with these bytes
//	truncate NAME SIZE      cut or lengthened with zeros
//	rename NAME NAME        remove NAME    mkdir NAME
//	configured SIZE         what mappedFileSizeCommitLog says
func TestEachFaultyStoreIsSaid(t *testing.T) {
	corpus.Run(t, "testdata/stores/*.txt", func(t *testing.T, input []byte) string {
		s := build(t, string(input))
		said := func(text string) string { return strings.ReplaceAll(text, s.root, "STORE") }
		var b strings.Builder
		in, err := store.Inspect(t.Context(), filepath.Join(s.root, "commitlog"), store.Options{FileSize: s.configured})
		if err != nil {
			fmt.Fprintln(&b, said(err.Error()))
		} else {
			fmt.Fprintf(&b, "from %d to %d, %d messages\n", in.First, in.End, in.Messages)
			b.WriteString(said(corpus.Findings(t, nil, in.Findings)))
		}
		if queues, err := store.MaxConsumeQueueOffset(t.Context(), s.root); err != nil {
			fmt.Fprintln(&b, said(err.Error()))
		} else if queues >= 0 {
			fmt.Fprintf(&b, "consume queues reach %d\n", queues)
		}
		files, err := store.IndexFiles(t.Context(), s.root)
		if err != nil {
			fmt.Fprintln(&b, said(err.Error()))
		}
		for _, f := range files {
			if f.Count > 1 {
				fmt.Fprintf(&b, "the index reaches %d\n", f.EndOffset)
			}
		}
		return b.String()
	})
}

type built struct {
	t          *testing.T
	root       string
	log        *storetest.Log
	configured int64
}

func build(t *testing.T, description string) *built {
	t.Helper()
	s := &built{t: t, root: t.TempDir()}
	for line := range strings.Lines(description) {
		if w := strings.Fields(line); len(w) > 0 && w[0] != "#" {
			s.do(line, w)
		}
	}
	return s
}

func (s *built) check(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *built) do(line string, w []string) {
	s.t.Helper()
	text := func(n int) string { // what follows the first n words
		rest := line
		for range n {
			_, rest, _ = strings.Cut(strings.TrimLeft(rest, " "), " ")
		}
		return rest
	}
	switch w[0] {
	case "log":
		first := int64(0)
		if len(w) > 2 {
			first = s.number(w[2])
		}
		s.log = storetest.New(s.t, filepath.Join(s.root, "commitlog"), s.number(w[1]), first)
	case "prepared":
		s.log.Prepared = int(s.number(w[1]))
	case "fill":
		s.log.Fill(int(s.number(w[1])), "orders", "k", int(s.number(w[2])))
	case "tear":
		s.log.Tear(message.Message{Topic: "orders", Body: make([]byte, 300), Stored: s.log.Messages[0].Stored, Born: s.log.Messages[0].Born,
			BornHost: s.log.Messages[0].BornHost, StoreHost: s.log.Messages[0].StoreHost}, int(s.number(w[1])))
	case "blank":
		s.log.WriteBlank()
	case "put":
		at := s.number(w[1])
		f, err := os.OpenFile(s.path("@"+fmt.Sprint(at/s.log.FileSize*s.log.FileSize)), os.O_WRONLY, 0)
		s.check(err)
		_, err = f.WriteAt(corpus.Bytes(s.t, text(2)), at%s.log.FileSize)
		s.check(err)
		s.check(f.Close())
	case "file":
		path := s.path(w[1])
		s.check(os.MkdirAll(filepath.Dir(path), 0o755))
		s.check(os.WriteFile(path, corpus.Bytes(s.t, text(2)), 0o644))
		s.check(os.Chtimes(path, time.Time{}, time.Now().Add(-time.Hour))) // nobody is just making it
	case "truncate":
		s.check(os.Truncate(s.path(w[1]), s.number(w[2])))
		s.check(os.Chtimes(s.path(w[1]), time.Time{}, time.Now().Add(-time.Hour)))
	case "rename":
		s.check(os.Rename(s.path(w[1]), s.path(w[2])))
	case "remove":
		s.check(os.RemoveAll(s.path(w[1])))
	case "mkdir":
		s.check(os.MkdirAll(s.path(w[1]), 0o755))
	case "configured":
		s.configured = s.number(w[1])
	default:
		s.t.Fatalf("%q is no directive", line)
	}
}

func (s *built) path(name string) string {
	if offset, ok := strings.CutPrefix(name, "@"); ok {
		return filepath.Join(s.root, "commitlog", store.FileName(s.number(offset)))
	}
	return filepath.Join(s.root, name)
}

func (s *built) number(text string) int64 {
	s.t.Helper()
	base, add := text, ""
	if i := strings.LastIndexAny(text, "+-"); i > 0 {
		base, add = text[:i], text[i:]
	}
	var at int64
	var err error
	switch {
	case base == "end":
		at = s.log.End
	case base == "last":
		at = s.log.Messages[len(s.log.Messages)-1].PhysicalOffset
	case strings.HasPrefix(base, "m"):
		n, err := strconv.Atoi(base[1:])
		s.check(err)
		at = s.log.Messages[n].PhysicalOffset
	default:
		at, err = strconv.ParseInt(base, 0, 64)
		s.check(err)
	}
	if add != "" {
		n, err := strconv.ParseInt(add, 10, 64)
		s.check(err)
		at += n
	}
	return at
}
