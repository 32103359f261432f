package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"mqlift/internal/probe"
)

// maxKeys bounds a range, so that a slip of the finger does not ask brokers for years.
const maxKeys = 100_000

// parseKeys reads TOPIC:KEY, or TOPIC:m600000..m600099 for a range of numbered keys.
func parseKeys(spec string) ([]probe.MessageKey, error) {
	topic, key, ok := strings.Cut(spec, ":")
	if !ok || topic == "" || key == "" {
		return nil, errors.New("write TOPIC:KEY or TOPIC:FIRST..LAST, such as orders:m600000..m600099")
	}
	first, last, ok := strings.Cut(key, "..")
	if !ok {
		return []probe.MessageKey{{Topic: topic, Key: key}}, nil
	}
	prefix, a, width, err := number(first)
	if err != nil {
		return nil, err
	}
	prefix2, b, width2, err := number(last)
	if err != nil {
		return nil, err
	}
	switch {
	case prefix != prefix2:
		return nil, fmt.Errorf("%s and %s differ before their numbers", first, last)
	case width2 != width && width2 != max(width, len(strconv.Itoa(b))):
		return nil, fmt.Errorf("%s and %s have different leading zeros", first, last)
	case b < a:
		return nil, fmt.Errorf("%s comes after %s", first, last)
	case b-a >= maxKeys:
		return nil, fmt.Errorf("%d keys, at most %d at a time", b-a+1, maxKeys)
	}
	var keys []probe.MessageKey
	for n := a; n <= b; n++ {
		keys = append(keys, probe.MessageKey{Topic: topic, Key: fmt.Sprintf("%s%0*d", prefix, width, n)})
	}
	return keys, nil
}

// number cuts a key into its prefix and the number that ends it.
func number(key string) (prefix string, n, width int, err error) {
	i := len(strings.TrimRight(key, "0123456789"))
	digits := key[i:]
	if n, err = strconv.Atoi(digits); err != nil {
		return "", 0, 0, fmt.Errorf("%q does not end in a number", key)
	}
	return key[:i], n, len(digits), nil
}
