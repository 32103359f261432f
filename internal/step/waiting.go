package step

import (
	"context"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"mqlift/internal/rocketmq"
)

// Waiting is what was under way in the group when sends were refused: the new leader goes on with it.
type Waiting struct {
	// Delayed are the delayed messages not delivered yet, by level; levels without any are left out.
	Delayed []DelayLevel `json:"delayed,omitempty"`
	// Transactions is how many prepared messages a transaction check would look at next: those neither
	// committed nor rolled back, and some whose end has been noted and not been looked at.
	Transactions int64 `json:"transactions,omitempty"`
}

// DelayLevel is one level's queue of delayed messages.
type DelayLevel struct {
	Level int    `json:"level"` // 1 is the first of messageDelayLevel
	Delay string `json:"delay"` // as messageDelayLevel has it, such as 10s
	// From and To are offsets in the level's queue: the first message not delivered, and one past the last.
	From int64 `json:"from"`
	To   int64 `json:"to"`
	// Delivered of them were delivered by the new leader when the group was proven.
	Delivered int64 `json:"delivered"`
}

// Count is how many delayed messages were waiting.
func (w *Waiting) Count() (waiting, delivered int64) {
	for _, l := range w.Delayed {
		waiting += l.To - l.From
		delivered += l.Delivered
	}
	return waiting, delivered
}

// Topics in which brokers keep what waits, and the group under whose name they keep how far they have
// looked through prepared messages (ScheduleMessageService, TransactionalMessageUtil, 4.5.2 to 5.3.3).
const (
	preparedTopic    = "RMQ_SYS_TRANS_HALF_TOPIC"
	transactionGroup = "CID_RMQ_SYS_TRANS"
)

// waiting asks a broker what is under way in it.
func (e *Env) waiting(ctx context.Context, n *Node) (*Waiting, error) {
	b := n.broker(e)
	live, err := b.Config(ctx)
	if err != nil {
		return nil, err
	}
	done, err := b.DelayOffsets(ctx)
	if err != nil {
		return nil, err
	}
	delays := strings.Fields(live["messageDelayLevel"])
	levels := make([]DelayLevel, len(delays))
	w := &Waiting{}
	eg, gctx := errgroup.WithContext(ctx)
	eg.SetLimit(16)
	for i, delay := range delays {
		eg.Go(func() error {
			end, err := b.MaxOffset(gctx, scheduleTopic, i)
			levels[i] = DelayLevel{Level: i + 1, Delay: delay, From: done[i+1], To: end}
			return err
		})
	}
	eg.Go(func() error {
		end, err := b.MaxOffset(gctx, preparedTopic, 0)
		if err != nil || end == 0 {
			return err
		}
		offsets, err := b.ConsumerOffsets(gctx)
		w.Transactions = max(0, end-offsets[preparedTopic+"@"+transactionGroup][0])
		return err
	})
	if err := eg.Wait(); err != nil {
		return nil, err
	}
	for _, l := range levels {
		if l.To > l.From {
			w.Delayed = append(w.Delayed, l)
		}
	}
	return w, nil
}

// noteWaiting says what the fence found under way. It is nothing that the upgrade stands on: what cannot
// be found out is said, and that is all.
func (e *Env) noteWaiting(ctx context.Context) {
	m := e.Master()
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	w, err := e.waiting(ctx, m)
	if err != nil {
		e.note(m.Host, "what is under way could not be counted: %v", err)
		return
	}
	e.State.Waiting = w
	if count, _ := w.Count(); count > 0 {
		e.note(m.Host, "%s wait for the new leader, which delivers those that come due up to 10 s after writes open", w.levels())
	}
	if w.Transactions > 0 {
		e.note(m.Host, "up to %d transactions are open: a commit or rollback is refused from here on, and the new leader asks their producers", w.Transactions)
	}
}

// levels is what waited, in words.
func (w *Waiting) levels() string {
	var parts []string
	for _, l := range w.Delayed {
		parts = append(parts, fmt.Sprintf("%d of level %d (%s)", l.To-l.From, l.Level, l.Delay))
	}
	count, _ := w.Count()
	return fmt.Sprintf("%d delayed messages (%s)", count, strings.Join(parts, ", "))
}

// countDelivered notes how many of the delayed messages that waited the leader has delivered by now.
func (e *Env) countDelivered(ctx context.Context, leader *Node) error {
	w := e.State.Waiting
	if w == nil || len(w.Delayed) == 0 {
		return nil
	}
	done, err := leader.broker(e).DelayOffsets(ctx)
	if err != nil {
		return err
	}
	for i, l := range w.Delayed {
		w.Delayed[i].Delivered = min(max(done[l.Level]-l.From, 0), l.To-l.From)
	}
	return nil
}

// offsetsNow is a broker's answer to a request for all its offsets, which is what the file in config/
// holds (ConfigManager.encode, 4.5.2 to 5.3.3), only that the file is some seconds old: 5 s for
// consumers' offsets, 10 s for delayed messages, which would be delivered again.
func (e *Env) offsetsNow(ctx context.Context, n *Node, file string) ([]byte, error) {
	code, ok := map[string]rocketmq.Code{"consumerOffset.json": rocketmq.GetAllConsumerOffset, "delayOffset.json": rocketmq.GetAllDelayOffset}[file]
	if !ok {
		return nil, nil
	}
	if p, err := n.process(ctx); err != nil || p == nil {
		return nil, err
	}
	answer, err := e.Client.Call(ctx, n.Addr(), &rocketmq.Command{Code: code})
	if err != nil {
		return nil, err
	}
	return answer.Body, nil
}

// UnderWay says, in words for a report, what became of that which was under way at the fence.
func (s *State) UnderWay() []string {
	if s.FencedEnd == 0 {
		return nil
	}
	var lines []string
	if w := s.Waiting; w != nil {
		if count, delivered := w.Count(); count > 0 {
			line := "Under way at the fence: " + w.levels()
			if delivered > 0 {
				line += fmt.Sprintf("; the new leader had delivered %d when it was proven", delivered)
			}
			lines = append(lines, line+".")
		}
		if w.Transactions > 0 {
			lines = append(lines, fmt.Sprintf("Under way at the fence: up to %d transactions neither committed nor rolled back; the new leader asks their producers about them.", w.Transactions))
		}
	}
	if s.Opening() {
		lines = append(lines, fmt.Sprintf("The fenced master wrote nothing by itself: its log ended at %d when it was certified, and when writes were opened.", s.CertifiedEnd))
	}
	if s.Offsets > 0 {
		lines = append(lines, fmt.Sprintf("Consumer offsets: %d carried over, %d committed after the copy; none set back.", s.Offsets, s.OffsetsMoved))
	}
	return lines
}
