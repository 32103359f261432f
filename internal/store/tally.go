package store

import (
	"bytes"
	"unicode/utf8"

	"mqlift/internal/message"
)

// queueKey names one consume queue.
type queueKey struct {
	topic string
	id    int32
}

// tally is what one commit log file says that consume queues and index must hold. Entries are added up
// by their hashes, so that millions of them are compared without keeping them: equal sums, equal
// entries. The sum of a file's tally can be added to that of the next one.
type tally struct {
	bounds *tallyBounds
	queues map[queueKey]*queueTally
	last   *queueTally // the one of the message before
	lastID queueKey

	keys    keyTally // indexed keys of messages inside the index's range
	older   keyTally // … before it
	newer   keyTally // … after it, and not yet dispatched when the queues were looked at
	skipped keyTally // … after it, although queues reach further
}

// tallyBounds is what was known of queues and index before the log was walked, so that a broker that
// goes on meanwhile disturbs nothing.
type tallyBounds struct {
	reach      map[queueKey]int64 // one past the last message that the queue refers to
	dispatched int64              // one past the last message that any queue refers to
	// indexFrom and indexTo are where the first and the last message in the index begin; the messages at
	// the two themselves may have keys in a neighbouring file, or not yet.
	indexFrom, indexTo int64
}

// queueTally is one queue's part.
type queueTally struct {
	prefix uint32 // Java's hash of "topic#", with which the keys' hashes begin

	entries       int64 // messages up to the queue's reach
	plain, tagged uint64
	min, max      int64 // logical offsets of these

	lost    int64 // messages behind the reach of this queue, and not behind that of all queues
	lostAt  int64 // where the first one stands
	behind  int64 // messages that no queue refers to yet
	behind1 int64 // where the first one stands
	stored  int64 // and when it was stored, in milliseconds
}

type keyTally struct {
	count int64
	sum   uint64
	first int64 // physical offset of the first one
}

func newTally(b *tallyBounds) *tally { return &tally{bounds: b, queues: map[queueKey]*queueTally{}} }

// see takes in the message m at a physical offset.
func (t *tally) see(m []byte, l message.Layout, physical int64) {
	topic, id := m[l.Topic:l.TopicEnd], l.QueueID(m)
	q := t.last
	if q == nil || t.lastID.id != id || t.lastID.topic != string(topic) {
		if q = t.queues[queueKey{string(topic), id}]; q == nil {
			q = &queueTally{prefix: javaHash(javaHash(0, topic), []byte{'#'})}
			t.queues[queueKey{string(topic), id}] = q
		}
		t.last, t.lastID = q, queueKey{string(topic), id}
	}
	transaction := l.SysFlag(m) & message.FlagTransaction
	if transaction != message.FlagRolledBack {
		t.seeKeys(m, l, q.prefix, physical)
	}
	// A half or rolled back message is in no queue (CommitLogDispatcherBuildConsumeQueue, 4.5.2 to 5.3.3),
	// and a batch is in one of another format.
	if transaction == message.FlagPrepared || transaction == message.FlagRolledBack || l.SysFlag(m)&message.FlagInnerBatch != 0 {
		return
	}
	reach, ok := t.bounds.reach[t.lastID]
	switch {
	case ok && physical < reach:
		logical := l.QueueOffset(m)
		if q.entries == 0 {
			q.min, q.max = logical, logical
		}
		q.min, q.max = min(q.min, logical), max(q.max, logical)
		q.entries++
		plain, tagged := entrySum(logical, physical, int32(l.Size), tagsCode(m, l))
		q.plain, q.tagged = q.plain+plain, q.tagged+tagged
	case physical < t.bounds.dispatched:
		if q.lost == 0 {
			q.lostAt = physical
		}
		q.lost++
	default:
		if q.behind == 0 {
			q.behind1, q.stored = physical, l.Stored(m)
		}
		q.behind++
	}
}

func (t *tally) seeKeys(m []byte, l message.Layout, prefix uint32, physical int64) {
	k := &t.keys
	switch {
	case physical == t.bounds.indexFrom || physical == t.bounds.indexTo:
		return
	case physical < t.bounds.indexFrom:
		k = &t.older
	case physical > t.bounds.indexTo && physical < t.bounds.dispatched:
		k = &t.skipped
	case physical > t.bounds.indexTo:
		k = &t.newer
	}
	keysOf(m, l, func(key []byte) {
		if k.count == 0 {
			k.first = physical
		}
		k.count++
		k.sum += keySum(indexHash(prefix, key), physical)
	})
}

// keysOf calls f with every key that a broker puts into its index (IndexService.buildIndex, 4.5.2 to
// 5.3.3).
func keysOf(m []byte, l message.Layout, f func(key []byte)) {
	if unique := l.Property(m, message.PropertyUniqueKey); len(unique) > 0 {
		f(unique)
	}
	for rest := l.Property(m, message.PropertyKeys); len(rest) > 0; {
		var key []byte
		key, rest, _ = bytes.Cut(rest, []byte{' '})
		if len(key) > 0 {
			f(key)
		}
	}
}

// add takes in the tally of the next file.
func (t *tally) add(next *tally) {
	for key, n := range next.queues {
		q := t.queues[key]
		if q == nil {
			t.queues[key] = n
			continue
		}
		if n.entries > 0 {
			if q.entries == 0 {
				q.min, q.max = n.min, n.max
			}
			q.min, q.max = min(q.min, n.min), max(q.max, n.max)
		}
		q.entries, q.plain, q.tagged = q.entries+n.entries, q.plain+n.plain, q.tagged+n.tagged
		if q.lost == 0 {
			q.lostAt = n.lostAt
		}
		if q.behind == 0 {
			q.behind1, q.stored = n.behind1, n.stored
		}
		q.lost, q.behind = q.lost+n.lost, q.behind+n.behind
	}
	for _, k := range [][2]*keyTally{{&t.keys, &next.keys}, {&t.older, &next.older}, {&t.newer, &next.newer}, {&t.skipped, &next.skipped}} {
		if k[0].count == 0 {
			k[0].first = k[1].first
		}
		k[0].count, k[0].sum = k[0].count+k[1].count, k[0].sum+k[1].sum
	}
}

// entrySum hashes what an entry of a consume queue says, without and with the code of its tag.
func entrySum(logical, physical int64, size int32, tags int64) (plain, tagged uint64) {
	h := scramble(scramble(uint64(logical)+0x9e3779b97f4a7c15) ^ uint64(physical))
	plain = scramble(h ^ uint64(size))
	return plain, scramble(plain ^ uint64(tags) + 1)
}

// keySum hashes what an entry of the index says.
func keySum(hash int32, physical int64) uint64 {
	return scramble(scramble(uint64(uint32(hash))+0x9e3779b97f4a7c15) ^ uint64(physical))
}

// scramble is the last step of SplitMix64: every bit of x changes about half of the result's.
func scramble(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// anyTags stands for the code of a tag that is not to be compared.
const anyTags = 1 << 62

// tagsCode is what a broker writes into the queue for consumers to filter by: the hash of the tag
// (MessageExtBrokerInner.tagsString2tagsCode); for a delayed message, the time when it is due, which
// hangs on the broker's settings.
func tagsCode(m []byte, l message.Layout) int64 {
	if string(m[l.Topic:l.TopicEnd]) == scheduleTopic {
		return anyTags
	}
	return int64(int32(javaHash(0, l.Property(m, message.PropertyTags))))
}

// scheduleTopic holds delayed messages until they are due.
const scheduleTopic = "SCHEDULE_TOPIC_XXXX"

// indexHash is IndexFile.indexKeyHashMethod: the hash of "topic#key" without its sign.
func indexHash(prefix uint32, key []byte) int32 {
	h := int32(javaHash(prefix, key))
	if h < 0 {
		h = -h
	}
	return max(h, 0) // the smallest int has no positive
}

// javaHash goes on with String.hashCode over text in UTF-8.
func javaHash(h uint32, text []byte) uint32 {
	for i := 0; i < len(text); {
		if text[i] < utf8.RuneSelf {
			h = h*31 + uint32(text[i])
			i++
			continue
		}
		r, size := utf8.DecodeRune(text[i:])
		if r > 0xffff { // two of Java's chars
			r -= 0x10000
			h = h*31 + 0xd800 + uint32(r>>10)
			r = 0xdc00 + r&0x3ff
		}
		h = h*31 + uint32(r)
		i += size
	}
	return h
}
