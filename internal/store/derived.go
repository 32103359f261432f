package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"mqlift/internal/diag"
	"mqlift/internal/message"
)

// Derived is what a broker builds from its commit log, as it was compared with the log: consume queues
// and index.
type Derived struct {
	Root    string      `json:"root"`
	Queues  []Queue     `json:"queues,omitempty"` // by topic and number
	Topics  int         `json:"topics"`
	Entries int64       `json:"entries"` // of all queues that refer to messages in the log
	Reach   int64       `json:"reach"`   // one past the last message that any queue refers to, -1 for none
	Index   []IndexFile `json:"index,omitempty"`
	Keys    int64       `json:"keys"` // entries of the index
	// Behind counts messages that are in the log and in no queue yet: a running broker's last ones, or
	// what a stopped one will add at its next start.
	Behind int64 `json:"behind"`
	// Findings say what is wrong; a Fail means that a consumer or a look-up by key would miss messages.
	Findings diag.Findings `json:"findings,omitempty"`
}

// maxDerivedFindings is how many findings of one check are spelled out.
const maxDerivedFindings = 10

// derivedCheck gathers findings while queues and index are compared with a log.
type derivedCheck struct {
	d        *Derived
	first    int64 // of the log, when the queues were read
	began    time.Time
	topics   map[string]bool // that the broker knows; nil when its list cannot be read
	batch    map[string]bool // topics with queues of another format
	ledger   bool            // DLedger has a log of its own below the root, which the queues go on into
	more     map[string]int
	behind   int64
	behindAt string
	aheadOf  int64
	aheadAt  string
}

func (c *derivedCheck) add(f diag.Finding) {
	c.more[f.Check]++
	if c.more[f.Check] <= maxDerivedFindings {
		c.d.Findings.Add(f)
	}
}

// hurt adds a finding about damage that no start of a broker mends.
func (c *derivedCheck) hurt(check, where, what string) {
	do := "with the broker stopped, move consumequeue and index aside, both: a broker of 4.x builds them anew from the log at its start, which takes longer"
	c.add(diag.Finding{Check: check, Severity: diag.Fail, Where: where, What: what, Do: do})
}

// lagging notes messages that no queue has yet. Those of the last moments are being dispatched.
func (c *derivedCheck) lagging(name string, q *queueTally) {
	if c.d.Behind += q.behind; time.UnixMilli(q.stored).After(c.began.Add(-justNow)) {
		return
	}
	if c.behind == 0 {
		c.behindAt = fmt.Sprintf("%s, offset %d of the log", name, q.behind1)
	}
	c.behind += q.behind
}

// justNow is how new a message may be to be in no queue yet: dispatching takes milliseconds, and host
// clocks differ.
const justNow = 5 * time.Second

func (c *derivedCheck) ahead(q *queueScan) {
	if c.aheadOf == 0 {
		c.aheadAt = fmt.Sprintf("%s, entry %d", q.name(), q.aheadFrom)
	}
	c.aheadOf += q.ahead
}

// strange tells topics whose queues the log's messages do not fill one to one: light queues (5.x) hold
// other topics' messages, batch queues have another format.
func (c *derivedCheck) strange(topic string) bool {
	return strings.HasPrefix(topic, "%LMQ%") || c.batch[topic]
}

// known tells whether the broker has the topic: the queues of a deleted one are gone on purpose.
func (c *derivedCheck) known(topic string) bool { return c.topics == nil || c.topics[topic] }

func (c *derivedCheck) finish(in *Inspection) {
	for check, n := range c.more {
		if n > maxDerivedFindings {
			c.d.Findings.Add(diag.Finding{Check: check, Severity: diag.Warn, Where: c.d.Root,
				What: fmt.Sprintf("%d more of the same kind are not listed", n-maxDerivedFindings), Do: "look at the whole store"})
		}
	}
	if c.behind > 0 {
		c.d.Findings.Add(diag.Finding{Check: "store.lagging", Severity: diag.Warn, Where: c.d.Root,
			What: fmt.Sprintf("the consume queues lag behind the log by %d messages, the first one of %s", c.behind, c.behindAt),
			Do:   "nothing with 4.x, which completes them at its next start; 5.x does not by default: start it once in the old mode, or move consumequeue and index aside"})
	}
	if c.aheadOf > 0 && c.ledger {
		return // they go on into DLedger's own log
	}
	if c.aheadOf > 0 {
		c.d.Findings.Add(diag.Finding{Check: "store.ahead", Severity: diag.Fail, Where: c.d.Root,
			What: fmt.Sprintf("%d entries of consume queues are ahead of the log, which ends at %d: first %s", c.aheadOf, in.End, c.aheadAt),
			Do:   "the log has lost its end, or the queues are another log's: bring the log's tail from another copy; a broker's start would cut the queues to the log"})
	}
}

// readDerived looks at queues and index before the log is walked: what they hold then must be in the
// log, whatever a running broker adds meanwhile.
type derivedScan struct {
	check  *derivedCheck
	queues []queueScan
	index  []IndexFile
	bounds *tallyBounds
}

func readDerived(ctx context.Context, root string, first int64, workers int) (*derivedScan, error) {
	c := &derivedCheck{d: &Derived{Root: root, Reach: -1}, first: first, began: time.Now(), more: map[string]int{}, batch: map[string]bool{}}
	s := &derivedScan{check: c, bounds: &tallyBounds{reach: map[queueKey]int64{}, indexFrom: -1, indexTo: -1}}
	var err error
	// In this order: a message is dispatched to its queue, then to the index.
	if s.bounds.dispatched, err = MaxConsumeQueueOffset(ctx, root); err != nil {
		return nil, err
	}
	if s.queues, err = readQueues(ctx, root, first, workers); err != nil {
		return nil, err
	}
	for _, q := range s.queues {
		s.bounds.reach[queueKey{q.Topic, q.ID}] = q.Reach
	}
	if s.index, err = IndexFiles(ctx, root); errors.Is(err, errShortIndex) {
		c.hurt("store.index", filepath.Join(root, "index"), err.Error())
	} else if err != nil {
		return nil, err
	}
	for _, f := range s.index {
		if f.Count > 1 {
			if s.bounds.indexFrom < 0 {
				s.bounds.indexFrom = f.BeginOffset
			}
			s.bounds.indexTo = f.EndOffset
		}
	}
	if c.topics, err = topicsOf(root); err != nil {
		return nil, err
	}
	batch, err := os.ReadDir(filepath.Join(root, "batchconsumequeue"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, topic := range batch {
		c.batch[topic.Name()] = true
	}
	ledgers, err := filepath.Glob(filepath.Join(root, "dledger-*"))
	c.ledger = len(ledgers) > 0
	return s, err
}

// compare says how queues and index fit the log that was walked.
func (s *derivedScan) compare(ctx context.Context, in *Inspection, t *tally) (*Derived, error) {
	c := s.check
	if err := c.d.compareQueues(ctx, in, s.queues, t, c); err != nil {
		return nil, err
	}
	if err := c.d.compareIndex(ctx, in, s, t); err != nil {
		return nil, err
	}
	c.finish(in)
	return c.d, nil
}

// topicsOf reads which topics a broker knows from its config/topics.json; nil when that is not there or
// not readable.
func topicsOf(root string) (map[string]bool, error) {
	m, err := ReadMetadata(root)
	if err != nil {
		return nil, err
	}
	var file struct {
		Topics map[string]json.RawMessage `json:"topicConfigTable"`
	}
	if json.Unmarshal(m.Files["topics.json"], &file) != nil || len(file.Topics) == 0 {
		return nil, nil
	}
	known := map[string]bool{}
	for topic := range file.Topics {
		known[topic] = true
	}
	return known, nil
}

// logReader reads messages of a commit log here and there.
type logReader struct {
	dir      string
	fileSize int64
	files    map[int64]*os.File
	buf      []byte
}

func (r *logReader) close() {
	for _, f := range r.files {
		f.Close()
	}
	r.files = nil
}

// message reads the message that begins at a physical offset. What it returns is good until the next
// call.
func (r *logReader) message(physical int64) ([]byte, message.Layout, error) {
	base := physical / r.fileSize * r.fileSize
	f := r.files[base]
	if f == nil {
		var err error
		if f, err = os.Open(filepath.Join(r.dir, FileName(base))); err != nil {
			return nil, message.Layout{}, err
		}
		if r.files == nil || len(r.files) >= 64 {
			r.close()
			r.files = map[int64]*os.File{}
		}
		r.files[base] = f
	}
	for size := int64(4096); ; {
		size = min(size, base+r.fileSize-physical)
		if int64(cap(r.buf)) < size {
			r.buf = make([]byte, size)
		}
		b := r.buf[:size]
		if _, err := f.ReadAt(b, physical-base); err != nil {
			return nil, message.Layout{}, err
		}
		l, err := message.LayoutOf(b)
		if errors.Is(err, message.ErrShort) && size < base+r.fileSize-physical {
			size *= 16
			continue
		}
		if err == nil && l.PhysicalOffset(b) != physical {
			err = message.ErrSize
		}
		if err != nil {
			return nil, l, err
		}
		return b[:l.Size], l, nil
	}
}
