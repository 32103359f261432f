package rocketmq

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestFastjsonsDialectIsRead(t *testing.T) {
	for in, want := range map[string]string{
		`{0:"a:1",1:"b:2"}`:                     `{"0":"a:1","1":"b:2"}`,
		`{-5:1.5,true:null,null:NaN}`:           `{"-5":1.5,"true":null,"null":null}`,
		`{{"queueId":0,t:"x"}:{o:1}}`:           `{"{\"queueId\":0,\"t\":\"x\"}":{"o":1}}`,
		`{[1,2]:3}`:                             `{"[1,2]":3}`,
		`{a:1,,'b':'x\x41\v\'',"c":[1,,2,],}`:   `{"a":1,"b":"xA\u000b'","c":[1,2]}`,
		"{\"s\":\"a\tb\\0\\7\\/\\u00e9\"}":      `{"s":"a\tb\u0000\u0007/é"}`,
		`{"s":"\ud83d\ude00\ud800x\udc00"}`:     `{"s":"😀` + "\ufffdx\ufffd" + `"}`,
		" \n{ a : [ ] , $_x-1 : { } } ":         `{"a":[],"$_x-1":{}}`,
		`{"topic@group":{0:9223372036854775807`: "",
		`{"a" 1}`:                               "",
		`{"a":1 "b":2}`:                         "",
		`{"a":01}`:                              "",
		`{"a":+1}`:                              "",
		`{"a":nope}`:                            "",
		`{"a":"\q"}`:                            "",
		`{"a":"\u12"}`:                          "",
		`{"a":"x`:                               "",
		`{"a":'x\`:                              "",
		`{:1}`:                                  "",
		`{}{}`:                                  "",
		`]`:                                     "",
		``:                                      "",
		"\x00":                                  "",
		strings.Repeat("[", 1e6):                "",
		strings.Repeat("[", 1e5) + strings.Repeat("]", 1e5):         "",
		strings.Repeat("{a:", 1e5) + "1" + strings.Repeat("}", 1e5): "",
		`{{{a:1}:2}:3}`:            `{"{\"{\\\"a\\\":1}\":2}":3}`,
		`{{{{a:1}:2}:3}:4}`:        "",
		strings.Repeat("{", 1e6):   "",
		strings.Repeat(`{a:`, 1e6): "",
	} {
		if len(in) > 60 {
			if _, err := strictJSON([]byte(in)); err == nil {
				t.Errorf("%.20s… was read", in)
			}
			continue
		}
		got, err := strictJSON([]byte(in))
		switch {
		case want == "":
			if err == nil {
				t.Errorf("%s was read as %s", in, got)
			}
		case err != nil:
			t.Errorf("%s: %v", in, err)
		default:
			if d := cmp.Diff(decoded(t, []byte(want)), decoded(t, got)); d != "" {
				t.Errorf("%s: %s", in, d)
			}
		}
	}
}

func decoded(t testing.TB, b []byte) any {
	t.Helper()
	var v any
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		t.Fatalf("%s: %v", b, err)
	}
	return v
}

// nesting is at least how deep objects and arrays nest.
func nesting(b []byte) int { return bytes.Count(b, []byte("[")) + bytes.Count(b, []byte("{")) }

func TestWhatFastjsonWritesKeepsItsMeaning(t *testing.T) {
	b, err := os.ReadFile("testdata/4.5.2/fastjson-strings.json") // fastjson 1.2.51's own
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := DecodeJSON(b, &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"s": "q\"b\\n\n t\t v\v z\x00 seven\a us\x1f del\x7f a0\u00a0 ls\u2028 e😀 /",
		"0": "i", "-5": 1.5, "true": nil, "null": nil, `{"queueId":1}`: []any{},
		"sp ace": "c", "a:b": []any{1.0},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestObjectsAsKeysCanBeDecodedOnceMore(t *testing.T) {
	var stats struct {
		Offsets map[string]struct {
			BrokerOffset, ConsumerOffset int64
		} `json:"offsetTable"`
	}
	if err := DecodeJSON(captured(t, "consume-stats").Body, &stats); err != nil {
		t.Fatal(err)
	}
	got := map[int]int64{}
	for key, o := range stats.Offsets {
		var q struct {
			Topic, BrokerName string
			QueueID           int `json:"queueId"`
		}
		if err := DecodeJSON([]byte(key), &q); err != nil {
			t.Fatal(err)
		}
		if q.Topic != "topic_dw_test_by_order_01" || q.BrokerName != "broker-a" {
			t.Errorf("%+v", q)
		}
		got[q.QueueID] = o.ConsumerOffset
	}
	if d := cmp.Diff(map[int]int64{0: 0, 1: 0, 2: 5, 3: 0}, got); d != "" {
		t.Error(d)
	}
}

func TestConfigFilesAreReadAsTheBrokerWroteThem(t *testing.T) {
	// 4.5.2 writes these files indented with tabs (RemotingSerializable.toJson, pretty).
	offsets, err := ParseConsumerOffsets([]byte("{\n\t\"offsetTable\":{\n\t\t\"%RETRY%g1@g1\":{0:0\n\t\t},\n\t\t\"t@g1\":{0:25,1:24,\n\t\t\t2:9223372036854775807\n\t\t}\n\t}\n}"))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(ConsumerOffsets{"%RETRY%g1@g1": {0: 0}, "t@g1": {0: 25, 1: 24, 2: 1<<63 - 1}}, offsets); d != "" {
		t.Error(d)
	}
	if topic, group, ok := TopicAndGroup("%RETRY%g1@g1"); topic != "%RETRY%g1" || group != "g1" || !ok {
		t.Error(topic, group, ok)
	}
	delays, err := ParseDelayOffsets([]byte("{\n\t\"offsetTable\":{3:17\n\t}\n}"))
	if err != nil || delays[3] != 17 {
		t.Error(delays, err)
	}
	for name, parse := range map[string]func([]byte) error{
		"topics":  func(b []byte) error { _, _, err := ParseTopics(b); return err },
		"groups":  func(b []byte) error { _, _, err := ParseSubscriptionGroups(b); return err },
		"offsets": func(b []byte) error { _, err := ParseConsumerOffsets(b); return err },
		"delays":  func(b []byte) error { _, err := ParseDelayOffsets(b); return err },
	} {
		for _, in := range []string{"", "{}", "null", "[]", `{"other":{}}`} {
			if parse([]byte(in)) == nil {
				t.Errorf("%s were read from %q, which holds no table", name, in)
			}
		}
	}
}

func FuzzDecodeJSON(f *testing.F) {
	for _, name := range []string{"route", "cluster", "topics", "consumer-offsets", "consume-stats", "runtime"} {
		f.Add(captured(f, name).Body)
	}
	for _, s := range []string{
		`{{{a:1}:2}:3}`, `{{{{a:1}:2}:3}:4}`, `{'a':"\ud83d\ude00\x41\v"}`, `[1,,]`, "{\"\x80\":\"\xff\"}", `"\`, `{1e5:-0.5E+3}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		strict, err := strictJSON(b)
		if err != nil {
			if json.Valid(b) && nesting(b) <= maxJSONDepth {
				t.Fatalf("valid JSON was refused: %v", err)
			}
			return
		}
		if !json.Valid(strict) {
			t.Fatalf("the result is no JSON: %s", strict)
		}
		if len(strict) > 64*len(b)+64 {
			t.Fatalf("%d bytes became %d", len(b), len(strict))
		}
		if json.Valid(b) {
			if d := cmp.Diff(decoded(t, b), decoded(t, strict)); d != "" {
				t.Fatal(d)
			}
		}
	})
}
