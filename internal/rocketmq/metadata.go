package rocketmq

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf16"
)

// DataVersion tells two states of the same table apart; brokers write it beside each.
type DataVersion struct {
	StateVersion int64 `json:"stateVersion,omitempty"` // 5.x
	Timestamp    int64 `json:"timestamp"`              // ms since 1970
	Counter      int64 `json:"counter"`
}

// Time is when the table was last changed.
func (v DataVersion) Time() time.Time { return time.UnixMilli(v.Timestamp) }

// TopicConfig is a topic on one broker.
type TopicConfig struct {
	Name        string `json:"topicName"`
	ReadQueues  int    `json:"readQueueNums"`
	WriteQueues int    `json:"writeQueueNums"`
	Perm        int    `json:"perm"`            // PermRead | PermWrite, …
	FilterType  string `json:"topicFilterType"` // SINGLE_TAG or MULTI_TAG; empty is SINGLE_TAG
	SysFlag     int    `json:"topicSysFlag"`
	Order       bool   `json:"order"`
	// Attributes exist from 5.x on.
	Attributes map[string]string `json:"attributes,omitempty"`
}

// NewTopic is a readable and writable topic with that many queues.
func NewTopic(name string, queues int) TopicConfig {
	return TopicConfig{
		Name: name, ReadQueues: queues, WriteQueues: queues,
		Perm: PermRead | PermWrite, FilterType: "SINGLE_TAG",
	}
}

// SubscriptionGroupConfig is a consumer group on one broker.
type SubscriptionGroupConfig struct {
	Name                           string            `json:"groupName"`
	ConsumeEnable                  bool              `json:"consumeEnable"`
	ConsumeFromMinEnable           bool              `json:"consumeFromMinEnable"`
	ConsumeBroadcastEnable         bool              `json:"consumeBroadcastEnable"`
	ConsumeMessageOrderly          bool              `json:"consumeMessageOrderly,omitempty"` // 5.x
	RetryQueues                    int               `json:"retryQueueNums"`
	RetryMaxTimes                  int               `json:"retryMaxTimes"`
	BrokerID                       int64             `json:"brokerId"`
	WhichBrokerWhenConsumeSlowly   int64             `json:"whichBrokerWhenConsumeSlowly"`
	NotifyConsumerIDsChangedEnable bool              `json:"notifyConsumerIdsChangedEnable"`
	ConsumeTimeoutMinutes          int               `json:"consumeTimeoutMinute,omitempty"` // 5.x
	Attributes                     map[string]string `json:"attributes,omitempty"`           // 5.x
}

// NewSubscriptionGroup is a group with the defaults of SubscriptionGroupConfig.java.
func NewSubscriptionGroup(name string) SubscriptionGroupConfig {
	return SubscriptionGroupConfig{
		Name: name, ConsumeEnable: true, ConsumeFromMinEnable: true, ConsumeBroadcastEnable: true,
		RetryQueues: 1, RetryMaxTimes: 16, WhichBrokerWhenConsumeSlowly: 1,
		NotifyConsumerIDsChangedEnable: true,
	}
}

// ConsumerOffsets is what groups have committed: by "topic@group" and queue, the offset of the
// next message.
type ConsumerOffsets map[string]map[int]int64

// TopicAndGroup cuts a key of ConsumerOffsets.
func TopicAndGroup(key string) (topic, group string, ok bool) { return strings.Cut(key, "@") }

// DelayOffsets is, by delay level (1 is the first), the offset in SCHEDULE_TOPIC_XXXX up to which
// delayed messages have been delivered.
type DelayOffsets map[int]int64

// ParseTopics reads the answer to GetAllTopicConfig, or config/topics.json, which has the same
// shape.
func ParseTopics(data []byte) (map[string]TopicConfig, DataVersion, error) {
	var t struct {
		Topics  map[string]TopicConfig `json:"topicConfigTable"`
		Version DataVersion            `json:"dataVersion"`
	}
	if err := DecodeJSON(data, &t); err != nil {
		return nil, DataVersion{}, err
	}
	if t.Topics == nil {
		return nil, DataVersion{}, errors.New("there is no topicConfigTable in it")
	}
	return t.Topics, t.Version, nil
}

// ParseSubscriptionGroups reads the answer to GetAllSubscriptionGroupConf, or
// config/subscriptionGroup.json.
func ParseSubscriptionGroups(data []byte) (map[string]SubscriptionGroupConfig, DataVersion, error) {
	var t struct {
		Groups  map[string]SubscriptionGroupConfig `json:"subscriptionGroupTable"`
		Version DataVersion                        `json:"dataVersion"`
	}
	if err := DecodeJSON(data, &t); err != nil {
		return nil, DataVersion{}, err
	}
	if t.Groups == nil {
		return nil, DataVersion{}, errors.New("there is no subscriptionGroupTable in it")
	}
	return t.Groups, t.Version, nil
}

// VersionOf is the version in one of config/*.json; zero where it has none.
func VersionOf(data []byte) DataVersion {
	var t struct {
		Version DataVersion `json:"dataVersion"`
	}
	if DecodeJSON(data, &t) != nil {
		return DataVersion{}
	}
	return t.Version
}

// ParseConsumerOffsets reads the answer to GetAllConsumerOffset, or config/consumerOffset.json.
func ParseConsumerOffsets(data []byte) (ConsumerOffsets, error) {
	var t struct {
		Offsets ConsumerOffsets `json:"offsetTable"`
	}
	if err := DecodeJSON(data, &t); err != nil {
		return nil, err
	}
	if t.Offsets == nil {
		return nil, errors.New("there is no offsetTable in it")
	}
	return t.Offsets, nil
}

// ParseDelayOffsets reads the answer to GetAllDelayOffset, or config/delayOffset.json.
func ParseDelayOffsets(data []byte) (DelayOffsets, error) {
	var t struct {
		Offsets DelayOffsets `json:"offsetTable"`
	}
	if err := DecodeJSON(data, &t); err != nil {
		return nil, err
	}
	if t.Offsets == nil {
		return nil, errors.New("there is no offsetTable in it")
	}
	return t.Offsets, nil
}

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }

func utf16Units(r rune) []uint16 { return utf16.AppendRune(nil, r) }
