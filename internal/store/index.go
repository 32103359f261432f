package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"mqlift/internal/diag"
	"mqlift/internal/message"
)

// Layout of an index file (IndexFile, 4.5.2 to 5.3.3): the header, the hash slots, and the entries,
// which are numbered from 1 and form chains from the newest of a slot to the oldest.
const (
	indexSlot    = 4
	indexEntry   = 20        // key's hash 4, physical offset 8, seconds since the file's begin 4, number of the one before 4
	indexSlots   = 5_000_000 // maxHashSlotNum unless set otherwise
	indexEntries = 4 * indexSlots
)

var errShortIndex = errors.New("the file is shorter than an index file's header")

// slotsOf works out how many hash slots an index file of that size has: the default, or a quarter of
// its entries as by default; 0 when neither fits.
func slotsOf(size int64) int64 {
	if size == indexHeader+indexSlots*indexSlot+indexEntries*indexEntry {
		return indexSlots
	}
	const each = indexSlot + 4*indexEntry
	if size > indexHeader && (size-indexHeader)%each == 0 {
		return (size - indexHeader) / each
	}
	return 0
}

// indexSum adds up the entries of one index file, and tells what is wrong within the file.
func indexSum(ctx context.Context, path string, f IndexFile, see func(hash int32, physical int64) error) (damage string, err error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return "", err
	}
	slots := slotsOf(info.Size())
	if slots == 0 {
		return fmt.Sprintf("has %d bytes, which is no length of an index file (%d unless maxHashSlotNum or maxIndexNum are set): it was cut short, or these are set", info.Size(), int64(indexHeader+indexSlots*indexSlot+indexEntries*indexEntry)), nil
	}
	table := indexHeader + slots*indexSlot
	if f.Count < 1 || int64(f.Count) > 4*slots { // the count begins at 1
		return fmt.Sprintf("counts %d entries in its header, more than it has room for", f.Count-1), nil
	}
	b, err := unix.Mmap(int(file.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return "", fmt.Errorf("map %s: %w", path, err)
	}
	defer unix.Munmap(b)
	u32 := func(at int64) int32 { return int32(binary.BigEndian.Uint32(b[at:])) }
	span := f.End.Unix() - f.Begin.Unix() + 1
	err = guard(path, func() error {
		newest := make([]int32, slots)
		before := int64(0)
		for i := int32(1); i < f.Count; i++ {
			if i%4096 == 0 && ctx.Err() != nil {
				return context.Cause(ctx)
			}
			at := table + int64(i)*indexEntry
			hash, physical, seconds, previous := u32(at), int64(binary.BigEndian.Uint64(b[at+4:])), u32(at+12), u32(at+16)
			slot := int64(hash) % slots
			switch {
			case damage != "":
			case hash < 0:
				damage = fmt.Sprintf("entry %d has a hash below zero", i)
			case physical < before:
				damage = fmt.Sprintf("entry %d refers to offset %d, before that of the entry before it (%d)", i, physical, before)
			case seconds < 0 || int64(seconds) > span:
				damage = fmt.Sprintf("entry %d was made %d s after the file's begin, which spans %d s: a look-up ends there", i, seconds, span)
			case previous != newest[slot]:
				damage = fmt.Sprintf("entry %d leads on to %d instead of %d: look-ups miss what lies between", i, previous, newest[slot])
			}
			if hash < 0 {
				return nil
			}
			before, newest[slot] = physical, i
			if err := see(hash, physical); err != nil {
				return err
			}
		}
		for slot, want := range newest {
			if damage != "" {
				break
			}
			have := u32(indexHeader + int64(slot)*indexSlot)
			// What a running broker has added since is followed back to what was counted.
			for steps := 0; have >= f.Count && int64(have) <= 4*slots && steps < 1<<20; steps++ {
				have = u32(table + int64(have)*indexEntry + 16)
			}
			if have != want {
				damage = fmt.Sprintf("slot %d leads to entry %d instead of %d: look-ups of its keys find nothing, or too little", slot, have, want)
			}
		}
		return nil
	})
	return damage, err
}

// compareIndex says what is wrong with the index, going by the log.
func (d *Derived) compareIndex(ctx context.Context, in *Inspection, s *derivedScan, t *tally) error {
	c, dir := s.check, filepath.Join(d.Root, "index")
	from, to := s.bounds.indexFrom, s.bounds.indexTo
	var have keyTally
	var ahead int64
	broken := false
	for _, f := range s.index {
		path := filepath.Join(dir, f.Name)
		damage, err := indexSum(ctx, path, f, func(hash int32, physical int64) error {
			switch d.Keys++; {
			case physical >= in.End:
				ahead++
			case physical > from && physical < to && physical >= in.First:
				have.count++
				have.sum += keySum(hash, physical)
			}
			return nil
		})
		if errors.Is(err, fs.ErrNotExist) {
			continue // expired meanwhile
		}
		if err != nil {
			return fmt.Errorf("index: %w", err)
		}
		d.Index = append(d.Index, f)
		if damage != "" {
			broken = true
			c.hurt("store.index", path, "the index file: "+damage)
		}
	}
	if ahead > 0 && !c.ledger {
		c.add(diag.Finding{Check: "store.ahead", Severity: diag.Fail, Where: dir,
			What: fmt.Sprintf("%d entries of the index are ahead of the log, which ends at %d", ahead, in.End),
			Do:   "no start cuts them: look-ups would find the wrong messages, and new ones would not be indexed; move consumequeue and index aside, both"})
	}
	if !broken && (ahead == 0 || c.ledger) && (have.count != t.keys.count || have.sum != t.keys.sum) {
		wrong, err := s.firstWrongKey(ctx, in)
		if err != nil {
			return err
		}
		switch {
		case wrong != "":
			c.hurt("store.index", dir, wrong)
		case have.count < t.keys.count:
			c.hurt("store.index", dir, fmt.Sprintf("%d keys of messages between offsets %d and %d are not in the index: look-ups by them find nothing", t.keys.count-have.count, from, to))
		default: // an unclean stop can leave a message indexed twice, which a look-up shows once
			c.add(diag.Finding{Check: "store.index", Severity: diag.Warn, Where: dir,
				What: fmt.Sprintf("%d keys are in the index more than once", have.count-t.keys.count), Do: "nothing: look-ups find them"})
		}
	}
	if t.older.count > 0 {
		c.add(diag.Finding{Check: "store.index", Severity: diag.Warn, Where: dir,
			What: fmt.Sprintf("%d keys of messages before offset %d, where the index begins, are not in it: look-ups by them find nothing", t.older.count, from),
			Do:   "an unclean stop loses index files; to have them back, move consumequeue and index aside with the broker stopped: 4.x builds both anew"})
	}
	if t.skipped.count > 0 {
		what := fmt.Sprintf("the index ends at offset %d, and %d keys of messages after it (first offset %d) are not in it although the queues reach further: no start adds them", to, t.skipped.count, t.skipped.first)
		if to < 0 {
			what = fmt.Sprintf("there is no index, and the log holds %d keys: look-ups by key find nothing", t.skipped.count)
		}
		c.add(diag.Finding{Check: "store.index", Severity: diag.Warn, Where: dir, What: what,
			Do: "if messageIndexEnable is not off, move consumequeue and index aside with the broker stopped: 4.x builds both anew"})
	}
	return nil
}

// firstWrongKey looks every entry's message up in the log and says what is wrong with the first one that
// is not right; "" when all are.
func (s *derivedScan) firstWrongKey(ctx context.Context, in *Inspection) (wrong string, err error) {
	log := &logReader{dir: in.Dir, fileSize: in.FileSize}
	defer log.close()
	for _, f := range s.index {
		_, err := indexSum(ctx, filepath.Join(s.check.d.Root, "index", f.Name), f, func(hash int32, physical int64) error {
			if wrong != "" || physical < in.First || physical >= in.End {
				return nil
			}
			m, l, err := log.message(physical)
			if err != nil {
				wrong = fmt.Sprintf("the index file %s refers to offset %d, where no message begins", f.Name, physical)
				return nil
			}
			if !hasHash(m, l, hash) {
				wrong = fmt.Sprintf("the index file %s refers to offset %d by a key that the message there does not have", f.Name, physical)
			}
			return nil
		})
		if wrong != "" || err != nil && !errors.Is(err, fs.ErrNotExist) {
			return wrong, err
		}
	}
	return "", nil
}

func hasHash(m []byte, l message.Layout, hash int32) bool {
	found := false
	prefix := javaHash(javaHash(0, m[l.Topic:l.TopicEnd]), []byte{'#'})
	keysOf(m, l, func(key []byte) { found = found || indexHash(prefix, key) == hash })
	return found
}
