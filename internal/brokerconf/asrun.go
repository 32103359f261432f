package brokerconf

import (
	"fmt"
	"strconv"
	"strings"
)

// dledgerKeys are what only a DLedger member's file has.
var dledgerKeys = []string{"enableDLegerCommitLog", "dLegerGroup", "dLegerPeers", "dLegerSelfId"}

// editedByHand are the keys that a change to DLedger by hand touches, or loses: the ones of a member and
// those of its place and name.
var editedByHand = []string{"brokerClusterName", "brokerName", "brokerId", "brokerRole", "brokerIP1", "brokerIP2",
	"listenPort", "storePathRootDir", "storePathCommitLog", "mappedFileSizeCommitLog"}

// Prepared tells whether somebody has written DLedger's keys into the file, and the line of the first.
func (f *File) Prepared() (line int, ok bool) {
	for _, key := range dledgerKeys {
		if n := f.Line(key); n > 0 && (line == 0 || n < line) {
			line = n
		}
	}
	return line, line > 0
}

// AsRun is the file that a broker in the old mode was started on, given the one that lies there now,
// edited for DLedger since, and what the running broker says of itself (code 26): without DLedger's
// keys, and with the running values of all that such an edit touches. Every other line stays. For each
// change there is a line that says which and where; without changes the file itself is returned.
func (f *File) AsRun(live map[string]string, release string) (*File, []string, error) {
	var e Edit
	var why []string
	for _, key := range dledgerKeys {
		if v, ok := f.Get(key); ok {
			e.Delete = append(e.Delete, key)
			why = append(why, fmt.Sprintf("%s=%s on line %d: the running broker is in the old mode and was started without it", key, v, f.Line(key)))
		}
	}
	s := f.Settings(release, "")
	effective := map[string]string{"brokerClusterName": s.Cluster, "brokerRole": s.Role, "brokerId": strconv.FormatInt(s.BrokerID, 10),
		"listenPort": strconv.Itoa(s.ListenPort), "storePathRootDir": s.StoreRoot, "storePathCommitLog": s.StoreCommitLog,
		"mappedFileSizeCommitLog": strconv.FormatInt(s.MappedFileSizeCommitLog, 10)}
	twice := map[string][]int{}
	for _, d := range f.Duplicates() {
		twice[d.Key] = d.Lines
	}
	for _, key := range editedByHand {
		want, known := live[key]
		if !known || want == "" {
			continue
		}
		have, there := f.Get(key)
		switch {
		case there && have == want:
			continue
		case !there && key == "brokerIP2", !there && effective[key] == want:
			continue
		case !there:
			why = append(why, fmt.Sprintf("%s is missing: the running broker has %s", key, want))
		case len(twice[key]) > 1:
			why = append(why, fmt.Sprintf("%s stands on lines %s and the last one, %s, would count at the next start: the running broker has %s", key, numbers(twice[key]), have, want))
		default:
			why = append(why, fmt.Sprintf("%s=%s on line %d: the running broker has %s", key, have, f.Line(key), want))
		}
		e.Set = append(e.Set, KV{key, want})
	}
	if e.Empty() {
		return f, nil, nil
	}
	was, err := f.Apply(e)
	return was, why, err
}

// OldLines says what has to be changed by hand in a file that was edited for DLedger so that a broker
// starts on it in the old mode again, for a broker that does not run, so that nobody can be asked what it
// had; "" where nothing has to be.
func (f *File) OldLines(release, home string) string {
	var words, out []string
	for _, key := range dledgerKeys {
		if n := f.Line(key); n > 0 {
			out = append(out, fmt.Sprintf("%s (line %d)", key, n))
		}
	}
	if len(out) > 0 {
		words = append(words, "take out "+strings.Join(out, ", "))
	}
	if root := f.OldRoot(release, home); root != f.Settings(release, home).StoreRoot {
		words = append(words, fmt.Sprintf("write storePathRootDir=%s (line %d)", root, f.Line("storePathRootDir")))
	}
	return strings.Join(words, ", ")
}

// OldRoot is where the store of the old mode has its root, by a file that may have been edited for DLedger:
// an earlier storePathRootDir of the file, or the folder that the commit log is in.
func (f *File) OldRoot(release, home string) string {
	s := f.Settings(release, home)
	if !s.DLedger {
		return s.StoreRoot
	}
	for _, e := range f.entries { // as the write-up's: the old line above the new one
		if e.key == "storePathRootDir" && e.value != s.StoreRoot {
			return e.value
		}
	}
	if root, ok := strings.CutSuffix(strings.TrimSuffix(s.StoreCommitLog, "/"), "/commitlog"); ok && root != "" {
		return root
	}
	return s.StoreRoot
}

func numbers(lines []int) string {
	l := make([]string, len(lines))
	for i, n := range lines {
		l[i] = strconv.Itoa(n)
	}
	return strings.Join(l, ", ")
}
