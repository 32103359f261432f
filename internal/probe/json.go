package probe

import (
	"encoding/json"
	"math"
	"strconv"
	"time"
)

// millis writes a duration as a JSON number of milliseconds with three decimals: reports and
// scripts read them, and nanoseconds would suggest a precision that nobody measured.
type millis time.Duration

func (m millis) MarshalJSON() ([]byte, error) {
	return strconv.AppendFloat(nil, float64(m)/float64(time.Millisecond), 'f', 3, 64), nil
}

func (m *millis) UnmarshalJSON(b []byte) error {
	var f float64
	if err := json.Unmarshal(b, &f); err != nil {
		return err
	}
	*m = millis(math.Round(f*1e3) * float64(time.Microsecond))
	return nil
}

type outageJSON struct {
	From       time.Time `json:"from"`
	To         time.Time `json:"to"`
	Length     millis    `json:"ms"`
	Open       bool      `json:"open,omitempty"`
	Failed     int       `json:"failed"`
	FirstError string    `json:"first_error"`
}

// MarshalJSON adds the length, in milliseconds.
func (o Outage) MarshalJSON() ([]byte, error) {
	return json.Marshal(outageJSON{o.From, o.To, millis(o.Length()), o.Open, o.Failed, o.FirstError})
}

// UnmarshalJSON reads what MarshalJSON wrote; the length follows from the times.
func (o *Outage) UnmarshalJSON(b []byte) error {
	var j outageJSON
	if err := json.Unmarshal(b, &j); err != nil {
		return err
	}
	*o = Outage{From: j.From, To: j.To, Open: j.Open, Failed: j.Failed, FirstError: j.FirstError}
	return nil
}

type latencyJSON struct {
	P50 millis `json:"p50_ms"`
	P90 millis `json:"p90_ms"`
	P99 millis `json:"p99_ms"`
	Max millis `json:"max_ms"`
}

// MarshalJSON writes milliseconds.
func (l Latency) MarshalJSON() ([]byte, error) {
	return json.Marshal(latencyJSON{millis(l.P50), millis(l.P90), millis(l.P99), millis(l.Max)})
}

// UnmarshalJSON reads milliseconds.
func (l *Latency) UnmarshalJSON(b []byte) error {
	var j latencyJSON
	if err := json.Unmarshal(b, &j); err != nil {
		return err
	}
	*l = Latency{time.Duration(j.P50), time.Duration(j.P90), time.Duration(j.P99), time.Duration(j.Max)}
	return nil
}

type summaryJSON struct {
	From    time.Time `json:"from"`
	To      time.Time `json:"to"`
	OK      int       `json:"ok"`
	Failed  int       `json:"failed"`
	Rate    float64   `json:"per_second"`
	Latency Latency   `json:"latency"`
	Outages []Outage  `json:"outages"`
	Longest millis    `json:"longest_outage_ms"`
	Total   millis    `json:"total_outage_ms"`
}

// MarshalJSON writes durations as milliseconds.
func (s Summary) MarshalJSON() ([]byte, error) {
	return json.Marshal(summaryJSON{s.From, s.To, s.OK, s.Failed, s.Rate, s.Latency, s.Outages,
		millis(s.Longest), millis(s.Total)})
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (s *Summary) UnmarshalJSON(b []byte) error {
	var j summaryJSON
	if err := json.Unmarshal(b, &j); err != nil {
		return err
	}
	*s = Summary{j.From, j.To, j.OK, j.Failed, j.Rate, j.Latency, j.Outages,
		time.Duration(j.Longest), time.Duration(j.Total)}
	return nil
}
