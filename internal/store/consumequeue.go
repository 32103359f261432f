package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"mqlift/internal/diag"
)

// Queue is one consume queue. Its offsets are logical (entries), its positions in the log physical.
type Queue struct {
	Topic   string `json:"topic"`
	ID      int32  `json:"id"`
	Min     int64  `json:"min"`     // of the first entry whose message the log still has
	Max     int64  `json:"max"`     // one past the last entry: what a broker calls its max offset
	Entries int64  `json:"entries"` // that refer to messages in the log
	Reach   int64  `json:"reach"`   // one past the last message in the log that it refers to, -1 for none
	Behind  int64  `json:"behind,omitempty"`
}

// queueFileSize is mappedFileSizeConsumeQueue unless set otherwise, in bytes.
const queueFileSize = 300_000 * queueEntry

// queueScan is one queue as it was read.
type queueScan struct {
	Queue
	dir           string
	plain, tagged uint64 // sums of the entries that are compared with the log
	extended      bool   // the store has a consumequeue_ext
	external      bool   // some entries' tags are addresses in consumequeue_ext
	ahead         int64  // entries that refer to what lies past the log's end
	aheadFrom     int64  // the first one's logical offset
	first         int64  // Min, whether the log still has its message or not; -1: no entry
	damage        string // the first damage seen in the queue's own files
	damageAt      string // in this file
}

// queueFolders finds all consume queues under a root, sorted by topic and number.
func queueFolders(root string) ([]queueScan, error) {
	dir := filepath.Join(root, "consumequeue")
	topics, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("consume queues: %w", err)
	}
	_, err = os.Stat(filepath.Join(root, "consumequeue_ext"))
	extended := err == nil
	var l []queueScan
	for _, topic := range topics {
		queues, err := os.ReadDir(filepath.Join(dir, topic.Name()))
		if errors.Is(err, fs.ErrNotExist) || !topic.IsDir() {
			continue // deleted meanwhile, or nothing that a broker looks at
		}
		if err != nil {
			return nil, fmt.Errorf("consume queues: %w", err)
		}
		for _, queue := range queues {
			id, err := strconv.ParseInt(queue.Name(), 10, 32)
			if err != nil { // DefaultMessageStore.loadConsumeQueue passes over it
				continue
			}
			l = append(l, queueScan{Queue: Queue{Topic: topic.Name(), ID: int32(id)}, dir: filepath.Join(dir, topic.Name(), queue.Name()), extended: extended})
		}
	}
	slices.SortStableFunc(l, func(a, b queueScan) int {
		if a.Topic != b.Topic {
			return strings.Compare(a.Topic, b.Topic)
		}
		return int(a.ID) - int(b.ID)
	})
	return l, nil
}

// readQueues reads every entry of all queues that refers to the log from first on.
func readQueues(ctx context.Context, root string, first int64, workers int) ([]queueScan, error) {
	l, err := queueFolders(root)
	if err != nil {
		return nil, err
	}
	size, err := usualSize(l)
	if err != nil {
		return nil, err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(workers)
	for i := range l {
		group.Go(func() error { return l[i].read(ctx, size, first, math.MaxInt64) })
	}
	return l, group.Wait()
}

// usualSize is the length that most queue files have.
func usualSize(l []queueScan) (int64, error) {
	sizes, best := map[int64]int{}, int64(queueFileSize)
	for _, q := range l {
		entries, err := os.ReadDir(q.dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return 0, fmt.Errorf("consume queues: %w", err)
		}
		for _, e := range entries {
			if info, err := e.Info(); err == nil && info.Mode().IsRegular() && info.Size() > 0 {
				sizes[info.Size()]++
			}
		}
	}
	for size, n := range sizes {
		if n > sizes[best] || n == sizes[best] && size > best {
			best = size
		}
	}
	return best, nil
}

// read goes through a queue's files. What refers to the log before first, or from end on, is counted
// and not summed up.
func (q *queueScan) read(ctx context.Context, size, first, end int64) error {
	q.Queue = Queue{Topic: q.Topic, ID: q.ID, Reach: -1}
	q.plain, q.tagged, q.ahead, q.first, q.damage, q.external = 0, 0, 0, -1, "", false
	entries, err := os.ReadDir(q.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("consume queue: %w", err)
	}
	r := queueReader{q: q, first: first, end: end}
	for _, e := range entries {
		path := filepath.Join(q.dir, e.Name())
		base, ok := ParseFileName(e.Name())
		if !ok || base%queueEntry != 0 {
			q.hurt(path, "is no consume queue file, and a broker does not load the queue with it")
			continue
		}
		if err := r.file(ctx, path, base, size); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("consume queue: %w", err)
		}
	}
	q.Max = r.next
	if q.Min < 0 || q.Entries == 0 {
		q.Min = q.Max
	}
	return nil
}

func (q *queueScan) hurt(path, what string) {
	if q.damage == "" {
		q.damage, q.damageAt = what, path
	}
}

type queueReader struct {
	q          *queueScan
	first, end int64
	begun      bool  // a first file has been read
	over       bool  // an empty entry has been seen
	overAt     int64 // at this logical offset
	next       int64 // logical offset after the last entry
	fileEnd    int64 // where the next file has to begin
	reach      int64 // of the last entry
}

var queueBuffers = sync.Pool{New: func() any { b := make([]byte, 4096*queueEntry); return &b }}

func (r *queueReader) file(ctx context.Context, path string, base, size int64) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if beingMade(info) {
		return nil
	}
	if info.Size() != size {
		r.q.hurt(path, fmt.Sprintf("has %d bytes, the others have %d, and a broker does not load the queue like that", info.Size(), size))
	}
	if info.Size()%queueEntry != 0 { // the only one of its length, perhaps: any setting is rounded up to whole entries
		r.q.hurt(path, fmt.Sprintf("has %d bytes, which are no whole entries: it was cut short, and a broker does not load the queue like that", info.Size()))
	}
	if r.begun && base != r.fileEnd {
		r.q.hurt(path, fmt.Sprintf("does not follow the file before it, which ends at %d", r.fileEnd))
	}
	if !r.begun {
		r.next = base / queueEntry
	}
	r.begun, r.fileEnd = true, base+info.Size()

	buffer := queueBuffers.Get().(*[]byte)
	defer queueBuffers.Put(buffer)
	for pos := int64(0); pos < info.Size(); {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if r.over { // only zeros may follow
			if pos, err = dataFrom(f, pos, info.Size()); err != nil || pos == info.Size() {
				return err
			}
			pos -= pos % queueEntry
		}
		n, err := f.ReadAt((*buffer)[:min(int64(len(*buffer)), info.Size()-pos)], pos)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if n < queueEntry {
			return nil
		}
		b := (*buffer)[:n-n%queueEntry]
		for at := 0; at < len(b); at += queueEntry {
			r.entry(path, (base+pos+int64(at))/queueEntry, b[at:at+queueEntry])
		}
		pos += int64(len(b))
	}
	return nil
}

// entry takes in one entry. Like ConsumeQueue.recover it takes the queue to end at the first one
// without a size; what comes after that is damage.
func (r *queueReader) entry(path string, logical int64, b []byte) {
	physical, size, tags := entryOf(b)
	q := r.q
	if physical < 0 || size <= 0 {
		if !r.over {
			r.over, r.overAt = true, logical
		}
		if physical != 0 || size != 0 || tags != 0 {
			q.hurt(path, fmt.Sprintf("has a broken entry %d (offset %d, size %d): a starting broker cuts the queue there", logical, physical, size))
		}
		return
	}
	if r.over {
		q.hurt(path, fmt.Sprintf("goes on at entry %d, after an empty or broken one at %d: a starting broker cuts the queue there", logical, r.overAt))
		return
	}
	r.next = logical + 1
	if physical == 0 && size == math.MaxInt32 { // ConsumeQueue.fillPreBlank
		if q.first >= 0 {
			q.hurt(path, fmt.Sprintf("has a filler as entry %d, between others", logical))
		}
		return
	}
	if q.first < 0 {
		q.first = logical
	} else if physical < r.reach {
		q.hurt(path, fmt.Sprintf("has entry %d at offset %d, before the end of the message of the entry before it (%d)", logical, physical, r.reach))
	}
	r.reach = physical + int64(size)
	switch {
	case physical < r.first: // expired: queue files go as a whole
	case physical >= r.end:
		if q.ahead == 0 {
			q.aheadFrom = logical
		}
		q.ahead++
	default:
		if q.Entries == 0 {
			q.Min = logical
		}
		q.Entries++
		q.Reach = max(q.Reach, r.reach)
		if q.extended && tags < math.MinInt32 { // ConsumeQueueExt.isExtAddr
			q.external = true
		}
		if q.Topic == scheduleTopic {
			tags = anyTags
		}
		plain, tagged := entrySum(logical, physical, size, tags)
		q.plain, q.tagged = q.plain+plain, q.tagged+tagged
	}
}

func entryOf(b []byte) (physical int64, size int32, tags int64) {
	return int64(binary.BigEndian.Uint64(b)), int32(binary.BigEndian.Uint32(b[8:])), int64(binary.BigEndian.Uint64(b[12:]))
}

// name is the queue as people say it.
func (q *Queue) name() string { return fmt.Sprintf("queue %d of %s", q.ID, q.Topic) }

// firstWrong looks every entry's message up in the log and says what is wrong with the first one that
// is not right; "" when all are. It reads the log again at many places, and is only for queues that are
// known not to fit.
func (q *queueScan) firstWrong(ctx context.Context, log *logReader, first, end int64) (string, error) {
	entries, err := os.ReadDir(q.dir)
	if err != nil {
		return "", err
	}
	for _, e := range entries {
		base, ok := ParseFileName(e.Name())
		if !ok {
			continue
		}
		data, err := os.ReadFile(filepath.Join(q.dir, e.Name()))
		if err != nil {
			return "", err
		}
		for at := 0; at+queueEntry <= len(data); at += queueEntry {
			if at%(1024*queueEntry) == 0 && ctx.Err() != nil {
				return "", context.Cause(ctx)
			}
			physical, size, tags := entryOf(data[at:])
			logical := (base + int64(at)) / queueEntry
			if physical < 0 || size <= 0 {
				return "", nil // the end, or damage that was seen already
			}
			if physical < first || physical >= end || physical == 0 && size == math.MaxInt32 {
				continue
			}
			m, l, err := log.message(physical)
			if err != nil {
				return fmt.Sprintf("entry %d refers to offset %d, where no message begins", logical, physical), nil
			}
			switch {
			case string(m[l.Topic:l.TopicEnd]) != q.Topic || l.QueueID(m) != q.ID:
				return fmt.Sprintf("entry %d refers to offset %d, where a message of queue %d of %s stands", logical, physical, l.QueueID(m), m[l.Topic:l.TopicEnd]), nil
			case l.QueueOffset(m) != logical:
				return fmt.Sprintf("entry %d refers to offset %d, where the message of entry %d stands", logical, physical, l.QueueOffset(m)), nil
			case l.Size != int(size):
				return fmt.Sprintf("entry %d gives its message (offset %d) %d bytes; it has %d", logical, physical, size, l.Size), nil
			case !q.external && q.Topic != scheduleTopic && tags != tagsCode(m, l):
				return fmt.Sprintf("entry %d has another tag than its message (offset %d): consumers that filter by tag miss it", logical, physical), nil
			}
		}
	}
	return "", nil
}

// compareQueues says what is wrong with the queues, going by the log.
func (d *Derived) compareQueues(ctx context.Context, in *Inspection, scans []queueScan, t *tally, c *derivedCheck) error {
	byKey := map[queueKey]*queueScan{}
	for i := range scans {
		byKey[queueKey{scans[i].Topic, scans[i].ID}] = &scans[i]
	}
	size, err := usualSize(scans)
	if err != nil {
		return err
	}
	log := &logReader{dir: in.Dir, fileSize: in.FileSize}
	defer log.close()
	for i := range scans {
		q := &scans[i]
		// What was expired meanwhile, and what lies past the log's end, cannot be in the log's sum.
		if in.First > c.first || q.Reach > in.End {
			reach := q.Reach
			if err := q.read(ctx, size, in.First, min(in.End, reach)); err != nil {
				return err
			}
			if reach <= in.End { // what came in since is no part of the comparison
				q.ahead = 0
			}
		}
		if q.damage != "" {
			c.hurt("store.queue", q.damageAt, fmt.Sprintf("%s: the file %s", q.name(), q.damage))
		}
		if q.ahead > 0 {
			c.ahead(q)
		}
		want := t.queues[queueKey{q.Topic, q.ID}]
		if want == nil {
			want = &queueTally{}
		}
		q.Behind = want.lost + want.behind
		if want.lost > 0 && !c.strange(q.Topic) {
			c.hurt("store.queue", q.dir, fmt.Sprintf("%s ends at %d and lacks %d messages, the first one at offset %d of the log, although other queues reach further: no start completes it", q.name(), q.Max, want.lost, want.lostAt))
		}
		if want.behind > 0 {
			c.lagging(q.name(), want)
		}
		same := want.entries == q.Entries && want.plain == q.plain && (q.external || want.tagged == q.tagged)
		if same || q.damage != "" || c.strange(q.Topic) {
			continue
		}
		wrong, err := q.firstWrong(ctx, log, in.First, in.End)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		switch {
		case wrong != "":
			c.hurt("store.queue", q.dir, fmt.Sprintf("%s: %s", q.name(), wrong))
		case want.entries > q.Entries && want.min < q.Min:
			c.hurt("store.queue", q.dir, fmt.Sprintf("%s begins at %d, and the log holds its messages from %d on", q.name(), q.Min, want.min))
		case want.entries > q.Entries:
			c.add(diag.Finding{Check: "store.queue", Severity: diag.Warn, Where: q.dir,
				What: fmt.Sprintf("%s has %d entries, and the log holds %d messages of it: older ones are left over from before the topic was deleted and made again, or entries are missing", q.name(), q.Entries, want.entries),
				Do:   "nothing if the topic was made anew; consumers do not see the others"})
		default:
			c.hurt("store.queue", q.dir, fmt.Sprintf("%s does not fit the log: %d entries, %d messages", q.name(), q.Entries, want.entries))
		}
	}
	missing := make([]queueKey, 0)
	for key, want := range t.queues {
		if byKey[key] == nil && want.lost+want.behind > 0 && c.known(key.topic) && !c.strange(key.topic) {
			missing = append(missing, key)
		}
	}
	slices.SortFunc(missing, func(a, b queueKey) int {
		return strings.Compare(fmt.Sprintf("%s %9d", a.topic, a.id), fmt.Sprintf("%s %9d", b.topic, b.id))
	})
	for _, key := range missing {
		want, q := t.queues[key], Queue{Topic: key.topic, ID: key.id}
		if want.lost > 0 {
			c.hurt("store.queue", filepath.Join(d.Root, "consumequeue", key.topic), fmt.Sprintf("there is no %s, and the log holds %d messages of it, the first one at offset %d: no start completes it as long as other queues reach further", q.name(), want.lost, want.lostAt))
		}
		if want.behind > 0 {
			c.lagging(q.name(), want)
		}
	}
	topics := map[string]bool{}
	for i := range scans {
		q := &scans[i]
		d.Queues = append(d.Queues, q.Queue)
		d.Entries += q.Entries
		d.Reach = max(d.Reach, q.Reach)
		topics[q.Topic] = true
	}
	d.Topics = len(topics)
	return nil
}
