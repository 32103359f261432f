package plan

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"mqlift/internal/brokerconf"
	"mqlift/internal/diag"
	"mqlift/internal/observe"
	"mqlift/internal/playbook"
	"mqlift/internal/topology"
)

// What is copied.
const (
	CopyLog    = "commit log"
	CopyQueues = "consume queues and index"
)

// Members works out each member before and after, configuration texts included. Facts that passed
// preflight always give members.
func Members(t *topology.Topology, g *topology.Group, f *observe.Facts) ([]*Member, error) {
	is := Recognise(g, f)
	var master *observe.Member
	for i := range f.Members {
		if is.Kinds[f.Members[i].Declared.Host] == Master {
			master = &f.Members[i]
		}
	}
	var members []*Member
	for i := range f.Members {
		m, err := member(g, f, &f.Members[i], master, is.Kinds[f.Members[i].Declared.Host])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.Members[i].Declared.Host, err)
		}
		members = append(members, m)
	}
	return members, nil
}

func member(g *topology.Group, f *observe.Facts, o, master *observe.Member, kind Kind) (*Member, error) {
	d := o.Declared
	m := &Member{
		Host: d.Host, Address: d.Address, Kind: kind, Peer: d.Peer, BrokerID: d.BrokerID(), RaftPort: d.RaftPort,
		InstallDir: d.InstallDir, WorkDir: d.WorkDir, Home: o.Host.Home, Env: d.Environment(), ConfPath: d.BrokerConf,
	}
	var err error
	if m.Start, err = d.StartCommand(); err != nil {
		return nil, err
	}
	if m.Stop, err = d.StopCommand(); err != nil {
		return nil, err
	}
	s, from := o.Settings, o
	m.ConfMode = 0o644
	m.Stopped = kind == Slave && down(o)
	if o.Conf == nil || kind == Fresh {
		if o.Conf != nil { // copied here from another member
			m.FoundConf, m.ConfMode = o.Conf.Bytes(), o.Host.BrokerConf.Mode.Perm()
		}
		if master == nil {
			return m, nil
		}
		// A new host gets what the master has, at the same place within its own installation.
		from, s = master, master.Settings
		s.StoreRoot, s.StoreCommitLog = observe.Places(d, master)
		if d.ListenPort != 0 {
			s.ListenPort = d.ListenPort
		}
	} else {
		m.OldConf, m.ConfMode = o.Conf.Bytes(), o.Host.BrokerConf.Mode.Perm()
		if o.Found != nil {
			m.FoundConf = o.Found.Bytes()
		}
	}
	m.ListenPort, m.LogFileSize = s.ListenPort, s.MappedFileSizeCommitLog
	m.OldRoot, m.CommitLog = s.StoreRoot, s.StoreCommitLog
	if m.Kind == DLedger {
		m.NewRoot = s.StoreRoot
		return m, nil
	}
	m.NewRoot = d.DLedgerRootFor(s.StoreRoot)
	target := brokerconf.DLedgerTarget{
		BrokerName: g.Name, Group: g.Name, Peers: g.Peers(), SelfID: d.Peer,
		StoreRoot: m.NewRoot, StoreCommitLog: m.CommitLog, MappedFileSizeCommitLog: m.LogFileSize,
		BrokerID: m.BrokerID, IP1: d.Address, ListenPort: s.ListenPort,
	}
	if m.NewConf, m.Reasons, err = render(from.Conf, m, target, f.Release); err != nil {
		return nil, err
	}
	target.Closed = true
	if m.ClosedConf, _, err = render(from.Conf, m, target, f.Release); err != nil {
		return nil, err
	}
	if m.Kind == Master {
		retired, err := o.Conf.Apply(brokerconf.Edit{Set: brokerconf.Retire()})
		if err != nil {
			return nil, err
		}
		m.RetiredConf = retired.Bytes()
	}
	oldName, old := m.ConfPath, m.OldConf
	switch {
	case m.FoundConf != nil:
		old = m.FoundConf
		m.Reasons = append(found(g, f, o, kind), m.Reasons...)
	case m.Kind == Fresh:
		oldName = "(none)"
	}
	m.Diff = brokerconf.Diff(oldName, m.ConfPath, old, m.NewConf)
	return m, nil
}

// found says what of a file that was found is not taken over.
func found(g *topology.Group, f *observe.Facts, o *observe.Member, kind Kind) []string {
	if kind != Fresh {
		return slices.Clone(o.Mended)
	}
	d := o.Declared
	l := []string{"made from the master's broker.conf; the file found here is a copy: " + (&recogniser{g: g, f: f}).copied(o, (&recogniser{f: f}).master())}
	for _, x := range o.Conf.Findings(brokerconf.Site{Host: d.Host, Release: f.Release, Home: o.Host.Home, Addresses: []string{d.Address}}) {
		l = append(l, "not taken over: "+x.Where+": "+x.What)
	}
	return l
}

func render(from *brokerconf.File, m *Member, target brokerconf.DLedgerTarget, release string) (Text, []string, error) {
	if m.Kind == Fresh {
		f, why, err := from.Derive(m.ConfPath, target, release)
		if err != nil {
			return nil, nil, err
		}
		return f.Bytes(), why, nil
	}
	edit, why := from.ToDLedger(target, release)
	f, err := from.Apply(edit)
	if err != nil {
		return nil, nil, err
	}
	return f.Bytes(), why, nil
}

// Input is what a plan is made from.
type Input struct {
	Topology *topology.Topology
	Group    *topology.Group
	Facts    *observe.Facts
	Playbook *playbook.Playbook
	Transfer Transfer // empty: Auto
	// RebuildIndex asks for consume queues and index built anew instead of carried.
	RebuildIndex bool
	Tool         string // mqlift's version
	// Describe tells what a step will do under the plan as far as it has been made.
	Describe func(step string, p *Plan) Step
}

// Make works out the plan. It refuses facts that do not pass preflight.
func Make(in Input) (*Plan, error) {
	found := Preflight(in.Topology, in.Group, in.Facts)
	if err := found.Err(); err != nil {
		return nil, err
	}
	members, err := Members(in.Topology, in.Group, in.Facts)
	if err != nil {
		return nil, err
	}
	p := &Plan{
		Version: 1, Tool: in.Tool, Created: in.Facts.At.UTC().Truncate(time.Second),
		Topology: in.Topology.File, Playbook: in.Playbook.Name, Cluster: in.Topology.Cluster, Group: in.Group.Name,
		Release: in.Facts.Release, NameServers: in.Topology.NameServers, Peers: in.Group.Peers(), TracerTopic: in.Group.TracerTopic,
		Members: members, Transfer: cmp.Or(in.Transfer, Auto), RebuildIndex: in.RebuildIndex,
	}
	rebuild := p.rebuild()
	if err := rebuild.Err(); err != nil {
		return nil, err
	}
	p.routes(in.Facts)
	for _, f := range append(found, rebuild...) {
		if f.Severity == diag.Warn {
			p.Risks.Add(f)
		}
	}
	if err := p.bytes(in.Facts).Err(); err != nil {
		return nil, err
	}
	p.Outage = p.predict(in.Facts)
	for _, s := range in.Playbook.Stages {
		stage := Stage{Name: s.Name, Clients: s.Clients, PointOfNoReturn: s.PointOfNoReturn}
		for _, name := range s.Steps {
			stage.Steps = append(stage.Steps, in.Describe(name, p))
		}
		p.Stages = append(p.Stages, stage)
	}
	p.Fingerprint, err = fingerprint(in, p)
	return p, err
}

// bytes works out what is copied where, and which disks do not bear it.
func (p *Plan) bytes(f *observe.Facts) diag.Findings {
	var full diag.Findings
	at := map[string]*observe.Member{}
	for i := range f.Members {
		at[f.Members[i].Declared.Host] = &f.Members[i]
	}
	size := func(m *Member, path string) int64 { return at[m.Host].Trees[path].Size.Allocated }
	queues := func(m *Member) int64 {
		return size(m, path.Join(m.OldRoot, "consumequeue")) + size(m, path.Join(m.OldRoot, "consumequeue_ext")) + size(m, path.Join(m.OldRoot, "index"))
	}
	master, slave := p.Of(Master)[0], p.Of(Slave)[0]
	bears := func(m *Member, path string, need, free int64, do string) {
		p.Disk = append(p.Disk, Forecast{Host: m.Host, Path: path, Need: need, Free: free})
		if need+spareDisk > free {
			full.Add(diag.Finding{Check: "host.disk", Severity: diag.Fail, Host: m.Host, Where: path,
				What: fmt.Sprintf("%d bytes are needed with a reserve of %d, and %d are free", need+spareDisk, int64(spareDisk), free), Do: do})
		}
	}
	carries := func(from, to *Member) {
		if !p.RebuildIndex {
			p.Copies = append(p.Copies, Copy{What: CopyQueues, From: from.Host, To: to.Host, Bytes: queues(from)})
		}
	}
	for _, m := range p.Members {
		place := at[m.Host].Trees[m.InstallDir]
		if tree, ok := at[m.Host].Trees[m.NewRoot]; ok {
			place = tree
		}
		var need int64
		if m.Kind == Fresh {
			p.Copies = append(p.Copies, Copy{What: CopyLog, From: master.Host, To: m.Host, Bytes: size(master, master.CommitLog)})
			carries(slave, m)
			need = queues(slave)
			if log, ok := at[m.Host].Trees[m.CommitLog]; ok && log.Filesystem.MountPoint != place.Filesystem.MountPoint { // a disk of its own
				bears(m, m.CommitLog, size(master, master.CommitLog), log.Filesystem.Free, "make room")
			} else {
				need += size(master, master.CommitLog)
			}
		} else {
			carries(m, m)
			need = queues(m)
			if m.Stopped { // it may lack any part of the log
				need += max(0, size(master, master.CommitLog)-size(m, m.CommitLog))
			}
		}
		bears(m, m.NewRoot, need, place.Filesystem.Free, "make room, or name another place (dledgerRoot)")
	}
	return full
}

func fingerprint(in Input, p *Plan) (string, error) {
	h := sha256.New()
	enc := json.NewEncoder(h)
	for _, v := range []any{in.Group, in.Playbook, p.Release, p.NameServers, p.Peers, p.Members, p.Transfer, p.RebuildIndex} {
		if err := enc.Encode(v); err != nil {
			return "", fmt.Errorf("plan: %w", err)
		}
	}
	return hex.EncodeToString(h.Sum(nil))[:16], nil
}

// StaleError tells that the cluster has moved away from a saved plan.
type StaleError struct {
	Plan, Now *Plan
	// Err is why no plan can be made now; Now is nil then.
	Err error
}

func (e *StaleError) Unwrap() error { return e.Err }

func (e *StaleError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("the plan of %s (%s) does not fit any more: %v", e.Plan.Created.Format(time.RFC3339), e.Plan.Fingerprint, e.Err)
	}
	var moved []string
	for i, m := range e.Plan.Members {
		if i >= len(e.Now.Members) {
			break
		}
		n := e.Now.Members[i]
		switch {
		case m.Kind != n.Kind:
			moved = append(moved, fmt.Sprintf("%s was %s and is %s", m.Host, m.Kind, n.Kind))
		case string(m.OldConf) != string(n.OldConf), string(m.FoundConf) != string(n.FoundConf):
			moved = append(moved, fmt.Sprintf("%s: %s was changed", m.Host, m.ConfPath))
		case m.Host != n.Host || m.CommitLog != n.CommitLog || m.OldRoot != n.OldRoot:
			moved = append(moved, fmt.Sprintf("%s: the store's place was changed", m.Host))
		}
	}
	for _, r := range e.Plan.Routes {
		if now, ok := e.Now.Route(r.From, r.To); ok && r.Direct && !now.Direct {
			moved = append(moved, fmt.Sprintf("data from %s to %s was to go directly, which is not possible now: %s", r.From, r.To, now.Why))
		}
	}
	if e.Plan.Transfer == "" {
		moved = append(moved, "an older mqlift made it, which did not say how data goes between the hosts")
	}
	if len(moved) == 0 {
		moved = []string{"the topology, the playbook or the release was changed"}
	}
	return fmt.Sprintf("the plan of %s (%s) does not fit any more: %s; make and review a new one with `mqlift plan`",
		e.Plan.Created.Format(time.RFC3339), e.Plan.Fingerprint, strings.Join(moved, "; "))
}

// CheckFresh compares a saved plan with one made now. That data could go directly where it is planned to go
// through this machine is no reason to refuse it.
func CheckFresh(saved, now *Plan) error {
	blocked := slices.ContainsFunc(saved.Routes, func(r Route) bool {
		n, ok := now.Route(r.From, r.To)
		return r.Direct && ok && !n.Direct
	})
	if blocked || saved.Fingerprint != now.Fingerprint {
		return &StaleError{Plan: saved, Now: now}
	}
	return nil
}
