package rocketmq

import "fmt"

// Code is a request code or, in a response, a response code. The numbers are those of
// RequestCode.java and ResponseCode.java; none that is used here changed between 4.5.2 and 5.3.3.
type Code int

// Request codes. A new call is a constant, its name in requestName, and a method on Broker or
// NameServers that turns fields and body into a Go value.
const (
	SendMessage                 Code = 10
	PullMessage                 Code = 11
	QueryMessage                Code = 12
	QueryConsumerOffset         Code = 14
	UpdateConsumerOffset        Code = 15
	CreateTopic                 Code = 17
	GetAllTopicConfig           Code = 21
	UpdateBrokerConfig          Code = 25
	GetBrokerConfig             Code = 26
	GetBrokerRuntimeInfo        Code = 28
	GetMaxOffset                Code = 30
	GetMinOffset                Code = 31
	SendHeartbeat               Code = 34
	GetConsumerList             Code = 38
	GetAllConsumerOffset        Code = 43
	GetAllDelayOffset           Code = 45
	UnregisterBroker            Code = 104
	GetRoute                    Code = 105
	GetClusterInfo              Code = 106
	CreateSubscriptionGroup     Code = 200
	GetAllSubscriptionGroupConf Code = 201
	GetConsumerConnections      Code = 203
	SendMessageV2               Code = 310
)

// Response codes.
const (
	ResponseSuccess                    Code = 0
	ResponseSystemError                Code = 1
	ResponseSystemBusy                 Code = 2
	ResponseRequestCodeNotSupported    Code = 3
	ResponseFlushDiskTimeout           Code = 10
	ResponseSlaveNotAvailable          Code = 11
	ResponseFlushSlaveTimeout          Code = 12
	ResponseMessageIllegal             Code = 13
	ResponseServiceNotAvailable        Code = 14
	ResponseNoPermission               Code = 16
	ResponseTopicNotExist              Code = 17
	ResponsePullNotFound               Code = 19
	ResponsePullRetryImmediately       Code = 20
	ResponsePullOffsetMoved            Code = 21
	ResponseQueryNotFound              Code = 22
	ResponseSubscriptionGroupNotExists Code = 26
	ResponseConsumerNotOnline          Code = 206
)

// requestName is what a request does, for error messages.
func requestName(c Code) string {
	switch c {
	case SendMessage, SendMessageV2:
		return "sending a message"
	case PullMessage:
		return "pulling messages"
	case QueryMessage:
		return "looking a key up"
	case QueryConsumerOffset:
		return "reading a consumer offset"
	case UpdateConsumerOffset:
		return "setting a consumer offset"
	case CreateTopic:
		return "creating a topic"
	case GetAllTopicConfig:
		return "listing topics"
	case UpdateBrokerConfig:
		return "changing the broker's configuration"
	case GetBrokerConfig:
		return "reading the broker's configuration"
	case GetBrokerRuntimeInfo:
		return "reading the broker's runtime info"
	case GetMaxOffset:
		return "reading a queue's end"
	case GetMinOffset:
		return "reading a queue's beginning"
	case SendHeartbeat:
		return "sending a client's heartbeat"
	case GetConsumerList:
		return "listing a group's consumers"
	case GetAllConsumerOffset:
		return "reading all consumer offsets"
	case GetAllDelayOffset:
		return "reading the delay offsets"
	case UnregisterBroker:
		return "unregistering a broker"
	case GetRoute:
		return "reading a topic's route"
	case GetClusterInfo:
		return "reading the cluster list"
	case CreateSubscriptionGroup:
		return "creating a subscription group"
	case GetAllSubscriptionGroupConf:
		return "listing subscription groups"
	case GetConsumerConnections:
		return "listing a group's connections"
	}
	if c == 50000 { // DLedgerRequestCode.METADATA
		return "reading the Raft group"
	}
	return fmt.Sprintf("request %d", int(c))
}

// responseName is ResponseCode.java's name, or empty for one that is not used here.
func responseName(c Code) string {
	switch c {
	case ResponseSystemError:
		return "SYSTEM_ERROR"
	case ResponseSystemBusy:
		return "SYSTEM_BUSY"
	case ResponseRequestCodeNotSupported:
		return "REQUEST_CODE_NOT_SUPPORTED"
	case ResponseFlushDiskTimeout:
		return "FLUSH_DISK_TIMEOUT"
	case ResponseSlaveNotAvailable:
		return "SLAVE_NOT_AVAILABLE"
	case ResponseFlushSlaveTimeout:
		return "FLUSH_SLAVE_TIMEOUT"
	case ResponseMessageIllegal:
		return "MESSAGE_ILLEGAL"
	case ResponseServiceNotAvailable:
		return "SERVICE_NOT_AVAILABLE"
	case ResponseNoPermission:
		return "NO_PERMISSION"
	case ResponseTopicNotExist:
		return "TOPIC_NOT_EXIST"
	case ResponsePullNotFound:
		return "PULL_NOT_FOUND"
	case ResponsePullRetryImmediately:
		return "PULL_RETRY_IMMEDIATELY"
	case ResponsePullOffsetMoved:
		return "PULL_OFFSET_MOVED"
	case ResponseQueryNotFound:
		return "QUERY_NOT_FOUND"
	case ResponseSubscriptionGroupNotExists:
		return "SUBSCRIPTION_GROUP_NOT_EXIST"
	case ResponseConsumerNotOnline:
		return "CONSUMER_NOT_ONLINE"
	}
	return ""
}
