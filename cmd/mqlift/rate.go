package main

import (
	"fmt"
	"strconv"
	"strings"
)

// rate is a flag's value in bytes a second: a number, with K, M or G for powers of 1024.
type rate int64

func (r *rate) Type() string { return "rate" }

func (r *rate) String() string {
	if *r == 0 {
		return ""
	}
	return strconv.FormatInt(int64(*r), 10)
}

// Set refuses what is slower than a modem: a slip of the unit.
func (r *rate) Set(s string) error {
	const slowest, fastest = 1 << 10, 1 << 40
	digits, unit := s, int64(1)
	for i, suffix := range []string{"K", "M", "G"} {
		for _, end := range []string{suffix, suffix + "B", suffix + "iB"} {
			if d, ok := strings.CutSuffix(s, end); ok {
				digits, unit = d, 1<<(10*(i+1))
			}
		}
	}
	n, err := strconv.ParseFloat(digits, 64)
	if err != nil || strings.ContainsAny(digits, "xXpPeEnN_+-") {
		return fmt.Errorf("%q is no rate: give bytes a second, such as 800K, 50M or 1.5G", s)
	}
	if n *= float64(unit); n < slowest || n > fastest {
		return fmt.Errorf("%q is %.0f bytes a second: give 1K to 1024G", s, n)
	}
	*r = rate(n)
	return nil
}
