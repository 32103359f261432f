// Package observe collects what is true on a broker group's hosts, brokers and name servers. Nothing
// in it changes anything.
package observe

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"mqlift/internal/agent"
	"mqlift/internal/brokerconf"
	"mqlift/internal/grouplock"
	"mqlift/internal/link"
	"mqlift/internal/rocketmq"
	"mqlift/internal/topology"
)

// Facts is what was found, at one time, in and around one broker group.
type Facts struct {
	At          time.Time
	Release     string // that the group's brokers run, from the newest answer: "4.5.2"
	Members     []Member
	NameServers []NameServer
	// Reached tells between which hosts data can go directly; nil: it was not tried.
	Reached []agent.Reached
}

// NameServer is one name server's own view.
type NameServer struct {
	Addr    string
	Err     error // it did not answer
	Took    time.Duration
	Cluster rocketmq.ClusterInfo
}

// Member is one host of the group.
type Member struct {
	Declared *topology.Member
	Host     *agent.Facts
	// Skew is how far the host's clock is ahead of this machine's, give or take SkewBy.
	Skew, SkewBy time.Duration

	// Conf is the broker.conf, nil when there is none; ConfErr is why it could not be read.
	Conf    *brokerconf.File
	ConfErr error
	// Found is the file that lies there when it was edited for DLedger while the broker goes on in the
	// old mode; Conf is then the one that the broker was started on, made from what it says of itself,
	// and Mended says what that differs in. nil otherwise.
	Found    *brokerconf.File
	Mended   []string
	Settings brokerconf.Settings // Conf's, with the running release's defaults; zero without Conf

	// Process is the broker that runs on Conf, nil when none does; Others are further brokers.
	Process *agent.RocketMQ
	Others  []agent.RocketMQ

	// Addr is where the broker should answer, Runtime and Live what it said (nil when it did not,
	// and why).
	Addr       string
	Runtime    rocketmq.RuntimeInfo
	Live       map[string]string // its configuration in effect
	RuntimeErr error
	// GoGroups are the consumer groups, by name, that have a client in Go connected to this master and
	// share their messages (cluster mode). ConsumersErr tells why that is not known.
	GoGroups     []string
	ConsumersErr error

	// Root and CommitLog are where the store was looked for: as the broker has them, and on a host
	// without one where the master's would be there (Places).
	Root, CommitLog string
	// Log is the commit log's folder as it lies there, not walked.
	Log   []agent.Entry
	Store *agent.Store          // the old root; nil: nowhere to look. Ledgers holds those below the new one, too
	Trees map[string]agent.Path // by path: install dir, old and new root, commit log, consumequeue, index

	// QueueFault is the last line in which a running DLedger peer complains, since its start, that its
	// consume queues do not fit the messages it gets; "" for none.
	QueueFault string
	// Lock is mqlift's lock on this host, nil when there is none or none that can be read; LockErr is why.
	Lock    *grouplock.Held
	LockErr error
}

// Role is brokerId 0, above, or none, as the running broker itself says.
func (m *Member) Role() string {
	switch {
	case m.Live == nil:
		return ""
	case m.Live["enableDLegerCommitLog"] == "true":
		return "dledger"
	case brokerconf.Slave(m.Live):
		return "slave"
	}
	return "master"
}

// mayStartAsPeer tells whether the host has a DLedger broker, also one that is down, or only its broker.conf,
// or a broker that says nothing of itself.
func (m *Member) mayStartAsPeer() bool {
	return m.Role() == "dledger" || m.Found != nil || m.Live == nil && (m.Settings.DLedger || m.Process != nil)
}

// LogMax is the end of the running broker's commit log, -1 when it is not known.
func (m *Member) LogMax() int64 {
	if m.Runtime == nil {
		return -1
	}
	n, err := m.Runtime.CommitLogMaxOffset()
	if err != nil {
		return -1
	}
	return n
}

// Hosts are the connections that facts are collected over.
type Hosts struct {
	Agents map[string]*agent.Agent // by the topology's host name
	Client *rocketmq.Client
}

// Group looks at everything side by side. What could not be found out stands in the facts as an
// error; the error returned is that of ctx, or of an agent that broke.
func Group(outer context.Context, t *topology.Topology, g *topology.Group, h Hosts) (*Facts, error) {
	f := &Facts{At: time.Now(), Members: make([]Member, len(g.Members)), NameServers: make([]NameServer, len(t.NameServers))}
	eg, ctx := errgroup.WithContext(outer)
	for i, addr := range t.NameServers {
		eg.Go(func() error {
			f.NameServers[i] = nameServer(ctx, h.Client, t.NameServers, addr)
			return ctx.Err()
		})
	}
	for i := range g.Members {
		eg.Go(func() error {
			m, err := member(ctx, h, &g.Members[i])
			if err != nil {
				return fmt.Errorf("%s: %w", g.Members[i].Host, err)
			}
			f.Members[i] = *m
			return nil
		})
	}
	if err := eg.Wait(); err != nil {
		return nil, err
	}
	for i := range f.Members {
		if m := &f.Members[i]; m.Role() == "master" {
			if m.GoGroups, m.ConsumersErr = goGroups(outer, h.Client.Broker(m.Addr)); outer.Err() != nil {
				return nil, outer.Err()
			}
		}
	}
	// Then the disks: on a host without a broker, a store lies where the master's would.
	var master *Member
	for i := range f.Members {
		if f.Members[i].Role() == "master" {
			master = &f.Members[i]
		}
	}
	eg, ctx = errgroup.WithContext(outer)
	for i := range f.Members {
		m := &f.Members[i]
		eg.Go(func() error {
			m.locate(master)
			if err := m.disk(ctx, h.Agents[m.Declared.Host], g, m.Declared); err != nil {
				return fmt.Errorf("%s: %w", m.Declared.Host, err)
			}
			return nil
		})
	}
	if err := eg.Wait(); err != nil {
		return nil, err
	}
	for _, m := range f.Members {
		if v := Release(m.Runtime); v != "" && m.Role() != "" {
			f.Release = v
			break
		}
	}
	if f.Release == "" {
		for _, m := range f.Members {
			if m.Host.Install != nil && m.Host.Install.Release != "" {
				f.Release = m.Host.Install.Release
				break
			}
		}
	}
	return f, nil
}

// Reach tries which hosts reach one another at their Raft ports. Those whose port is taken are left out, and
// where a DLedger peer may be about to start nothing is tried: it must find its port free.
func (f *Facts) Reach(ctx context.Context, agents map[string]*agent.Agent) error {
	if slices.ContainsFunc(f.Members, func(m Member) bool { return m.mayStartAsPeer() }) {
		return nil
	}
	var stations []agent.Station
	for i := range f.Members {
		m := &f.Members[i]
		free := slices.ContainsFunc(m.Host.Ports, func(p agent.Port) bool { return p.Port == m.Declared.RaftPort && p.Free })
		if free {
			stations = append(stations, agent.Station{Agent: agents[m.Declared.Host], Address: m.Declared.RaftAddr(), Port: m.Declared.RaftPort})
		}
	}
	if len(stations) < 2 {
		return nil
	}
	for try := 1; ; try++ {
		var err error
		f.Reached, err = agent.Reach(ctx, stations)
		met := slices.ContainsFunc(f.Reached, func(r agent.Reached) bool { return errors.Is(r.Err, link.ErrTaken) })
		if err != nil || !met || try == 4 {
			return err
		}
		// Two who try it at once wait for one another's ports.
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(rand.N(2 * time.Second)):
		}
	}
}

// goGroups asks a broker which of its consumer groups have clients in Go.
func goGroups(ctx context.Context, b *rocketmq.Broker) ([]string, error) {
	groups, _, err := b.SubscriptionGroups(ctx)
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	var found []string
	eg, ctx := errgroup.WithContext(ctx)
	eg.SetLimit(16)
	for name := range groups {
		eg.Go(func() error {
			c, err := b.ConsumerConnections(ctx, name)
			if err != nil {
				return err
			}
			for _, client := range c.Clients {
				if client.Language == "GO" && c.Model == "CLUSTERING" {
					mu.Lock()
					defer mu.Unlock()
					found = append(found, name)
					break
				}
			}
			return nil
		})
	}
	err = eg.Wait()
	slices.Sort(found)
	return found, err
}

func nameServer(ctx context.Context, c *rocketmq.Client, all []string, addr string) NameServer {
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	info, err := c.NameServers(all).ClusterInfoAt(ctx, addr)
	return NameServer{Addr: addr, Err: err, Took: time.Since(began), Cluster: info}
}

func member(ctx context.Context, h Hosts, d *topology.Member) (*Member, error) {
	a := h.Agents[d.Host]
	m := &Member{Declared: d, Trees: map[string]agent.Path{}}
	var err error
	// First what says where everything else lies.
	if m.Host, err = a.Facts(ctx, agent.FactsRequest{InstallDir: d.InstallDir, BrokerConf: d.BrokerConf, Env: d.Environment(), Ports: []int{d.RaftPort}}); err != nil {
		return nil, err
	}
	if m.Skew, m.SkewBy, err = a.Skew(ctx); err != nil {
		return nil, err
	}
	for i, b := range m.Host.Brokers {
		switch {
		case !b.Java:
		case b.Conf == d.BrokerConf:
			m.Process = &m.Host.Brokers[i]
		default:
			m.Others = append(m.Others, b)
		}
	}
	if m.Host.BrokerConf != nil {
		m.Conf, m.ConfErr = brokerconf.Parse(d.BrokerConf, m.Host.BrokerConf.Content)
	}
	if m.Conf != nil {
		m.Settings = m.Conf.Settings(m.Host.Install.Release, m.Host.Home)
		m.Addr = d.Address + ":" + strconv.Itoa(m.Settings.ListenPort)
		b := h.Client.Broker(m.Addr)
		if m.Runtime, m.RuntimeErr = runtimeInfo(ctx, b); m.RuntimeErr == nil {
			m.Live, m.RuntimeErr = b.Config(ctx)
		}
	}
	if m.Role() == "dledger" && m.Process != nil {
		if err := m.queueFault(ctx, a); err != nil {
			return nil, err
		}
	}
	return m, m.asRun()
}

// queueFault looks for what a peer that was started on a shorter log than the leader's writes for every
// new message, and for nothing else (ConsumeQueue.putMessagePositionInfo, 4.5.2; seen).
func (m *Member) queueFault(ctx context.Context, a *agent.Agent) error {
	tail, err := a.TailFile(ctx, agent.TailRequest{Path: path.Join(m.Host.Home, "logs/rocketmqlogs/storeerror.log"), Lines: 1, Grep: `\[BUG\]logic queue order maybe wrong`})
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case len(tail.Lines) > 0 && tail.Modified.After(m.Process.Started):
		m.QueueFault = tail.Lines[0]
	}
	return nil
}

// asRun takes the running broker's word where its file was edited for DLedger since it was started.
func (m *Member) asRun() error {
	if m.Conf == nil || m.Live == nil || m.Role() == "dledger" {
		return nil
	}
	if _, prepared := m.Conf.Prepared(); !prepared {
		return nil
	}
	release := Release(m.Runtime)
	was, mended, err := m.Conf.AsRun(m.Live, release)
	if err != nil {
		return err
	}
	m.Found, m.Conf, m.Mended, m.Settings = m.Conf, was, mended, was.Settings(release, m.Host.Home)
	return nil
}

// locate says where the member's store is to be looked for.
func (m *Member) locate(master *Member) {
	switch {
	case m.Live != nil || m.Process != nil:
		m.Root, m.CommitLog = m.Settings.StoreRoot, m.Settings.StoreCommitLog
	case master != nil && (m.Conf == nil || m.Settings.IP1 != m.Declared.Address): // nothing, or perhaps a copy
		m.Root, m.CommitLog = Places(m.Declared, master)
	case m.Conf != nil:
		m.Root, m.CommitLog = m.Conf.OldRoot(m.Host.Install.Release, m.Host.Home), m.Settings.StoreCommitLog
	}
}

// Places are the store's root and the commit log that a member gets which has none: where the master has
// them, at the same place within its own installation.
func Places(d *topology.Member, master *Member) (root, commitLog string) {
	from := master.Declared.InstallDir
	return within(master.Settings.StoreRoot, from, d.InstallDir), within(master.Settings.StoreCommitLog, from, d.InstallDir)
}

// within moves a path from one installation into another; paths outside stay.
func within(p, from, to string) string {
	if rest, ok := strings.CutPrefix(p, from+"/"); ok {
		return path.Join(to, rest)
	}
	return p
}

// runtimeInfo asks for the broker's figures. In its first seconds a broker has no statistics yet and
// answers with an error (StoreStatsService, 4.5.2: NoSuchElementException; longer on 5.3.3).
func runtimeInfo(ctx context.Context, b *rocketmq.Broker) (info rocketmq.RuntimeInfo, err error) {
	for range 10 {
		var refused *rocketmq.ResponseError
		if info, err = b.RuntimeInfo(ctx); !errors.As(err, &refused) || refused.Code != rocketmq.ResponseSystemError {
			return info, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(500 * time.Millisecond):
		}
	}
	return info, err
}

// disk looks at the store and the places that will be written.
func (m *Member) disk(ctx context.Context, a *agent.Agent, g *topology.Group, d *topology.Member) error {
	root, log := m.Root, m.CommitLog
	paths := []string{d.InstallDir}
	r := agent.FactsRequest{}
	if root != "" {
		r.StoreRoots = []string{root, d.DLedgerRootFor(root)}
		for _, f := range []*brokerconf.File{m.Conf, m.Found} { // where a file that was edited by hand puts it
			if f == nil {
				continue
			}
			if other := f.Settings(m.Host.Install.Release, m.Host.Home).StoreRoot; !slices.Contains(r.StoreRoots, other) {
				r.StoreRoots = append(r.StoreRoots, other)
			}
		}
		r.List = []string{log}
		paths = append(paths, root, log, path.Join(root, "consumequeue"), path.Join(root, "consumequeue_ext"), path.Join(root, "index"), d.DLedgerRootFor(root))
	}
	r.Paths = paths
	f, err := a.Facts(ctx, r)
	if err != nil {
		return err
	}
	for _, p := range f.Paths {
		m.Trees[p.Path] = p
	}
	if len(f.Stores) > 0 {
		m.Store = &f.Stores[0]
		for _, s := range f.Stores[1:] {
			m.Store.Ledgers = append(m.Store.Ledgers, s.Ledgers...)
		}
	}
	if len(f.Lists) > 0 {
		m.Log = f.Lists[0].Entries
	}
	file := grouplock.Path(d.WorkDir, g.Name)
	lock, err := a.Lock(ctx, agent.LockRequest{Action: agent.LockLook, Path: file})
	if err != nil {
		return err
	}
	if lock.Held != nil {
		m.Lock, m.LockErr = grouplock.Read(d.Host, file, lock.Held, lock.Quiet)
	}
	return nil
}

// Lock is the first lock found on the group's hosts, of the run that lives if one does; nil when there is
// none.
func (f *Facts) Lock() *grouplock.Held {
	var held []*grouplock.Held
	for _, m := range f.Members {
		held = append(held, m.Lock)
	}
	return grouplock.First(held...)
}

// Release is the release that a broker says it runs, "4.5.2" for V4_5_2; "" when it said nothing.
func Release(i rocketmq.RuntimeInfo) string {
	return strings.ReplaceAll(strings.TrimPrefix(i.Version(), "V"), "_", ".")
}
