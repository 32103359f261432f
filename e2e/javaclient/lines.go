package javaclient

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"mqlift/internal/probe"
	"mqlift/internal/rocketmq"
)

// line is what the application tells in one line; see Application.java.
type line struct {
	kind  string
	begin time.Time // of an attempt; of a message that was given, the time
	end   time.Time // of an attempt
	entry probe.Entry
	// physical is the offset of the stored copy that was given, retries how often that copy had been sent back.
	physical int64
	retries  int32
}

// The kinds of lines.
const (
	started = "started"
	sent    = "sent"
	failed  = "failed"
	given   = "given"
	stopped = "stopped"
)

// fields are how many a line of each kind has, its kind included.
var fields = map[string]int{started: 1, sent: 8, failed: 5, given: 5, stopped: 1}

// parse reads a line. The entry's topic is left empty: the line does not have it.
func parse(text string) (line, error) {
	f := strings.Split(text, "\t")
	l := line{kind: f[0]}
	if n, known := fields[l.kind]; !known {
		return line{}, fmt.Errorf("a line of an unknown kind: %.200q", text)
	} else if len(f) != n {
		return line{}, fmt.Errorf("a line with %d fields for %d: %.200q", len(f), n, text)
	}
	var errs []error
	number := func(text string, bits int) int64 {
		n, err := strconv.ParseInt(text, 10, bits)
		errs = append(errs, err)
		return n
	}
	moment := func(text string) time.Time { return time.UnixMicro(number(text, 64)) }
	switch l.kind {
	case sent:
		l.begin, l.end = moment(f[1]), moment(f[2])
		l.entry = probe.Entry{Key: f[3], Acked: true, Queue: int(number(f[4], 32)), Offset: number(f[5], 64), MsgID: f[7], At: l.end}
		if f[6] != rocketmq.SendOK.String() {
			l.entry.Status = f[6]
		}
	case failed:
		l.begin, l.end = moment(f[1]), moment(f[2])
		l.entry = probe.Entry{Key: f[3], Error: f[4], At: l.end}
		if f[4] == "" {
			errs = append(errs, errors.New("no error"))
		}
	case given:
		l.begin, l.entry.Key, l.physical, l.retries = moment(f[1]), f[2], number(f[3], 64), int32(number(f[4], 32))
	}
	if l.kind != started && l.kind != stopped && l.entry.Key == "" {
		errs = append(errs, errors.New("no key"))
	}
	if err := errors.Join(errs...); err != nil {
		return line{}, fmt.Errorf("a line that cannot be read: %.200q: %w", text, err)
	}
	return l, nil
}
