package replay

import (
	"fmt"
	"maps"
	"strconv"

	"mqlift/internal/message"
	"mqlift/internal/rocketmq"
)

// PropertyOrigin marks a message that was sent again: the run, its queue, and its offset there, by which
// a duplicate is known.
const PropertyOrigin = "MQLIFT_ORIGIN"

// Names of properties that brokers give a special meaning (MessageConst, 4.5.2).
const (
	propDelay       = "DELAY"
	propRealTopic   = "REAL_TOPIC"
	propRealQueue   = "REAL_QID"
	propTransaction = "TRAN_MSG"
)

// keptFlags are the bits of a message's sysFlag that a sender sets: how the body is compressed, and
// several tags. The others say what a transaction came to and how long addresses are.
const keptFlags = message.FlagCompressed | 1<<1 | 7<<8

// Origin names a message of a run's group for good.
func Origin(run string, m message.Message) string {
	return fmt.Sprintf("%s/%d/%d", run, m.QueueID, m.QueueOffset)
}

// Again is the message as it is to be sent again: to the same queue, with body, keys, tags, flag, the time
// of its birth and all properties; a delayed one to where it was on its way to, with its level. unique is
// the key by which it is found afterwards: its own UNIQ_KEY, or one made from its origin where its sender
// gave none.
func Again(run string, m message.Message) (r rocketmq.SendRequest, unique string) {
	p := maps.Clone(m.Properties)
	r = rocketmq.SendRequest{
		Group: "mqlift", Topic: m.Topic, QueueID: int(m.QueueID), Body: m.Body, Properties: p,
		Flag: m.Flag, SysFlag: m.SysFlag & keptFlags, Born: m.Born, ReconsumeTimes: int(m.ReconsumeTimes),
	}
	if topic := p[propRealTopic]; topic != "" && p[propDelay] != "" {
		r.Topic = topic
		if id, err := strconv.Atoi(p[propRealQueue]); err == nil {
			r.QueueID = id
		}
	} else {
		delete(p, propDelay)
	}
	delete(p, propRealTopic)
	delete(p, propRealQueue)
	delete(p, propTransaction) // a committed one would be taken for half a transaction
	if p[message.PropertyUniqueKey] == "" {
		p[message.PropertyUniqueKey] = fmt.Sprintf("%s/%s", m.Topic, Origin(run, m))
	}
	p[PropertyOrigin] = Origin(run, m)
	return r, p[message.PropertyUniqueKey]
}

// Delayed tells whether a broker keeps the message back before it puts it into its queue.
func Delayed(r rocketmq.SendRequest) bool { return r.Properties[propDelay] != "" }
