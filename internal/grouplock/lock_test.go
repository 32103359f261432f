package grouplock

import (
	"os/exec"
	"strings"
	"testing"
	"time"
)

// ended is a process of this machine that has ended.
func ended(t *testing.T) Process {
	t.Helper()
	cmd := exec.Command("true")
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	p := Self()
	p.PID, p.Start = cmd.Process.Pid, p.Start+1
	return p
}

func TestWhoHoldsALockIsToldDeadOrAlive(t *testing.T) {
	again := Self() // its number, given again
	again.Start--
	far := Self()
	far.Boot = "another machine"
	container := Self()
	container.Namespace = "pid:[1]"
	for name, c := range map[string]struct {
		process Process
		quiet   time.Duration
		want    Life
		says    []string
	}{
		"a process of this machine":           {Self(), time.Hour, Alive, []string{"it lives", "cannot be broken"}},
		"one that has ended":                  {ended(t), time.Second, Dead, []string{"has ended", "`mqlift apply` here", "--state-dir /s", "--break-lock run-1"}},
		"a number that was given again":       {again, time.Second, Dead, []string{"has ended"}},
		"another machine, beating":            {far, 20 * time.Second, Alive, []string{"it lives", "20s old", "on bastion-2"}},
		"another machine, silent":             {far, 2 * time.Minute, Silent, []string{"no sign of life since", "(2m0s ago)", "look on bastion-2", "--break-lock run-1"}},
		"another container, silent":           {container, 2 * time.Minute, Silent, nil},
		"a clock that was set back since":     {far, -time.Hour, Alive, nil},
		"a lock that names no process, fresh": {Process{}, 0, Alive, nil},
		"a lock that names no process, old":   {Process{}, 5 * time.Minute, Silent, nil},
	} {
		t.Run(name, func(t *testing.T) {
			raw, err := Lock{Group: "g", Run: "run-1", Operator: "alice", From: "bastion-2", Process: c.process, Dir: "/s/runs/g/run-1"}.Encode()
			if err != nil {
				t.Fatal(err)
			}
			h, err := Read("host-a", "/w/g.lock", raw, c.quiet)
			if err != nil {
				t.Fatal(err)
			}
			if h.Life != c.want {
				t.Errorf("%s, want %s", h.Life, c.want)
			}
			text := (&Error{Held: h}).Error()
			for _, s := range append(c.says, "host-a: /w/g.lock: run run-1 of alice on bastion-2") {
				if !strings.Contains(text, s) {
					t.Errorf("%q is not in: %s", s, text)
				}
			}
			if h.Breakable("run-1") != (c.want != Alive) || h.Breakable("") || h.Breakable("run-2") {
				t.Errorf("breakable: %v by its name, %v by none, %v by another", h.Breakable("run-1"), h.Breakable(""), h.Breakable("run-2"))
			}
		})
	}
}

func TestAFileThatIsNoLockIsNotTakenForOne(t *testing.T) {
	for _, raw := range []string{"", "keep out\n", "{", "{}", "null", `{"group":"g","run":""}`, `{"group":"","run":"r"}`, `{"group":"g","run":"r\u001b[2J"}`} {
		if h, err := Read("host-a", "/w/g.lock", []byte(raw), time.Hour); err == nil || !strings.Contains(err.Error(), "host-a: /w/g.lock is not a lock that mqlift wrote") {
			t.Errorf("%q: %+v, %v", raw, h, err)
		}
	}
}
