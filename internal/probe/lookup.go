package probe

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"mqlift/internal/message"
)

// Defaults of Lookup.
const (
	DefaultLookupParallel = 8
	DefaultLookupTimeout  = 3 * time.Second
	DefaultLookupLimit    = 15 * time.Second
)

// Lookup looks messages up by key on each of several brokers, by address: a broker answers from its
// own index, so this shows what every single node holds.
//
// A message that a node does not find by its key is looked for at its queue offset, where the ledger
// has that, since the two are not the same: a node that was killed destroys the index files newer
// than its checkpoint when it starts, that is, at least the last one, and a DLedger node does not
// build them again (IndexService.load, DLedgerCommitLog.recover, 4.5.2; seen). Its messages are all
// there, and consumed as ever, but their keys are lost on that node.
type Lookup struct {
	Brokers  Brokers
	Parallel int           // look-ups at once on each node; DefaultLookupParallel
	Timeout  time.Duration // of one look-up; DefaultLookupTimeout
	// Limit is for how long a node is asked again for keys that it did not give at once, since a
	// message is indexed some time after it was stored; DefaultLookupLimit. Every key is asked for
	// once at least, unless the node does not answer at all.
	Limit time.Duration
}

// NodeKeys is what one node has of the keys looked up.
type NodeKeys struct {
	Addr  string       `json:"addr"`
	Found []MessageKey `json:"found"`
	// Unindexed are stored, as their queue offset shows, but not to be found by key.
	Unindexed []MessageKey `json:"unindexed"`
	Missing   []MessageKey `json:"missing"`
	// Unanswered are the keys for which no answer was to be had; FirstError says why.
	Unanswered []MessageKey `json:"unanswered"`
	FirstError string       `json:"first_error,omitempty"`
	// Copies are the keys that are stored more than once, with how often.
	Copies []Copies `json:"copies"`
}

// Copies is a key that is stored more than once.
type Copies struct {
	MessageKey
	Count int `json:"count"`
}

// Find looks every message up on every node, all nodes side by side, and returns the nodes in the
// order of addrs. Of an entry that is not Acked only topic and key are used. A node that does not
// answer is no error here: its keys are Unanswered. The error is that of the context; the result then
// holds what was known by that time, with the rest Unanswered.
func (l Lookup) Find(ctx context.Context, messages []Entry, addrs []string) ([]NodeKeys, error) {
	nodes := make([]NodeKeys, len(addrs))
	var all sync.WaitGroup
	for i, addr := range addrs {
		all.Go(func() { nodes[i] = l.node(ctx, messages, addr) })
	}
	all.Wait()
	return nodes, context.Cause(ctx)
}

// answer is what is known of one message on one node.
type answer struct {
	asked  bool // answered at least once
	copies int  // found by key
	// stored says that it is at its queue offset, and indexless that it was not to be found by key
	// after that had been seen. A message is entered into its queue first and then into the index, in
	// one go (DefaultMessageStore's dispatchers, 4.5.2): there is nothing to wait for.
	stored, indexless bool
	err               error // why the last look-up had no answer
}

func (a answer) settled() bool { return a.copies > 0 || a.indexless }

func (l Lookup) node(ctx context.Context, messages []Entry, addr string) NodeKeys {
	answers := make([]answer, len(messages))
	pending := make([]int, len(messages))
	for i := range pending {
		pending[i] = i
	}
	var deadline time.Time
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		l.round(ctx, messages, answers, pending, addr)
		pending = slices.DeleteFunc(pending, func(i int) bool { return answers[i].settled() })
		now := time.Now()
		if deadline.IsZero() {
			deadline = now.Add(cmp.Or(l.Limit, DefaultLookupLimit))
		}
		if len(pending) == 0 || !now.Before(deadline) {
			break
		}
		select {
		case <-time.After(min(wait, deadline.Sub(now))):
			continue
		case <-ctx.Done():
		}
		break
	}

	n := NodeKeys{Addr: addr}
	for i, m := range messages {
		k := MessageKey{m.Topic, m.Key}
		switch a := answers[i]; {
		case a.copies > 0:
			n.Found = append(n.Found, k)
			if a.copies > 1 {
				n.Copies = append(n.Copies, Copies{k, a.copies})
			}
		case a.stored:
			n.Unindexed = append(n.Unindexed, k)
		case a.asked:
			n.Missing = append(n.Missing, k)
		default:
			n.Unanswered = append(n.Unanswered, k)
			if n.FirstError == "" && a.err != nil {
				n.FirstError = a.err.Error()
			}
		}
	}
	return n
}

// errSilent is the reason for messages that were left out because the node does not answer.
var errSilent = errors.New("not asked for: the node has stopped answering")

// round asks for each pending message once. After as many failures in a row as look-ups run at once
// it leaves the rest out: at a dead node thousands of them would each take a time-out.
func (l Lookup) round(ctx context.Context, messages []Entry, answers []answer, pending []int, addr string) {
	parallel := cmp.Or(l.Parallel, DefaultLookupParallel)
	broker := l.Brokers(addr)
	var mu sync.Mutex
	next, failures := 0, 0
	take := func() (int, bool) {
		mu.Lock()
		defer mu.Unlock()
		if next == len(pending) || failures >= parallel || ctx.Err() != nil {
			return 0, false
		}
		next++
		return pending[next-1], true
	}
	var workers sync.WaitGroup
	for range min(parallel, len(pending)) {
		workers.Go(func() {
			for {
				i, ok := take()
				if !ok {
					return
				}
				a := answers[i] // no other worker has i
				err := l.ask(ctx, broker, messages[i], &a)
				mu.Lock()
				if err != nil {
					failures++
					a.err = fmt.Errorf("look-up of %s at %s: %w", messages[i].Key, addr, err)
				} else {
					failures = 0
				}
				answers[i] = a
				mu.Unlock()
			}
		})
	}
	workers.Wait()
	for _, i := range pending[next:] {
		if !answers[i].asked && answers[i].err == nil {
			answers[i].err = errSilent
		}
	}
}

// ask looks one message up by key and, when it has no such key, at its queue offset.
func (l Lookup) ask(ctx context.Context, b Broker, m Entry, a *answer) error {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(l.Timeout, DefaultLookupTimeout))
	defer cancel()
	found, err := b.QueryByKey(ctx, m.Topic, m.Key, lookUpMax, time.Time{}, time.Time{})
	if err != nil {
		return err
	}
	a.asked, a.copies, a.indexless = true, len(found), len(found) == 0 && a.stored
	if a.settled() || !m.Acked {
		return nil
	}
	at, err := b.Pull(ctx, m.Topic, m.Queue, m.Offset, 1)
	if err != nil {
		return err
	}
	a.stored = slices.ContainsFunc(at.Messages, func(got message.Message) bool {
		return got.QueueOffset == m.Offset && got.HasKey(m.Key)
	})
	return nil
}
