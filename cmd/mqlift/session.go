package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"mqlift/internal/agent"
	"mqlift/internal/diag"
	"mqlift/internal/event"
	"mqlift/internal/fleet"
	"mqlift/internal/grouplock"
	"mqlift/internal/observe"
	"mqlift/internal/plan"
	"mqlift/internal/playbook"
	"mqlift/internal/probe"
	"mqlift/internal/remote"
	"mqlift/internal/rocketmq"
	"mqlift/internal/run"
	"mqlift/internal/step"
	"mqlift/internal/topology"
	"mqlift/internal/view"
)

// target is what every command that looks at a group is told.
type target struct {
	Topology string
	Group    string
	Playbook string
	Transfer string
	// RebuildIndex is as in plan.Input.
	RebuildIndex bool
	JSON         bool
	Without      []string // hosts that a way back leaves out, since they cannot be reached
}

func (t *target) addFlags(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&t.Topology, "topology", "t", "topology.yaml", "topology `file`")
	cmd.Flags().StringVarP(&t.Group, "group", "g", "", "broker group (default: the only one in the topology)")
	cmd.Flags().BoolVar(&t.JSON, "json", false, "print JSON")
}

// ofAllGroups is for commands that only look, and without --group look at all groups.
func (t *target) ofAllGroups(cmd *cobra.Command) {
	cmd.Flags().Lookup("group").Usage = "broker `group` (default: all in the topology)"
}

func (t *target) addPlaybookFlag(cmd *cobra.Command) {
	cmd.Flags().StringVar(&t.Playbook, "playbook", "dledger", "order of work: a built-in name, or a `file`")
}

func (t *target) addRebuildFlag(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&t.RebuildIndex, "rebuild-index", false, "have brokers build consume queues and index from the whole log instead of carrying them (4.x): the outage grows with the store")
}

func (t *target) addTransferFlag(cmd *cobra.Command) {
	cmd.Flags().StringVar(&t.Transfer, "transfer", "", "how data goes between hosts: auto (directly and encrypted where they reach one another, otherwise through\nthis machine; the default), plain (the same, unencrypted but authenticated), or bastion (always through this machine)")
}

// declared is what the operator wrote, read and checked.
type declared struct {
	topology     *topology.Topology
	playbook     *playbook.Playbook // nil unless asked for
	transfer     plan.Transfer
	rebuildIndex bool
	credentials  *rocketmq.Credentials
}

// session is a group of a topology with connections to all its hosts.
type session struct {
	declared
	group *topology.Group

	without     []string // hosts left out
	taken       *fleet.Group
	hosts       map[string]*remote.Host
	agents      map[string]*agent.Agent
	client      *rocketmq.Client
	nameServers *rocketmq.NameServers

	mu      sync.Mutex
	givenUp map[string]error // hosts that could not be reached again
}

// connectError is that not all hosts of a group could be connected to.
type connectError struct {
	group string
	err   error
}

func (e *connectError) Error() string { return e.err.Error() }
func (e *connectError) Unwrap() error { return e.err }

// read reads what is declared, and touches no host.
func (t *target) read() (d declared, err error) {
	d.transfer, d.rebuildIndex = plan.Transfer(t.Transfer), t.RebuildIndex
	if d.transfer != "" && !slices.Contains(plan.Transfers(), d.transfer) {
		return d, &usageError{fmt.Errorf("--transfer %s: it is one of %q", t.Transfer, plan.Transfers())}
	}
	if d.topology, err = topology.Load(t.Topology); err != nil {
		return d, t.input(err)
	}
	if t.Playbook != "" {
		if d.playbook, err = playbook.Load(t.Playbook, step.Requirements()); err != nil {
			return d, t.input(err)
		}
	}
	if acl := d.topology.ACL; acl != nil {
		secret, err := acl.SecretKey()
		if err != nil {
			return d, t.input(err)
		}
		d.credentials = &rocketmq.Credentials{AccessKey: acl.AccessKey, SecretKey: secret}
	}
	return d, nil
}

// open reads what is declared, and only then connects to the one group that is asked for.
func (t *target) open(ctx context.Context) (*session, error) {
	d, err := t.read()
	if err != nil {
		return nil, err
	}
	group, err := d.topology.Group(t.Group)
	if err != nil {
		return nil, &usageError{err}
	}
	return d.connect(ctx, fleet.New(fleet.DefaultLimits(), hostsOf(group)), group, t.Without)
}

func hostsOf(g *topology.Group) (names []string) {
	for _, m := range g.Members {
		names = append(names, m.Host)
	}
	return names
}

// connect takes all hosts of a group that are not left out, or none.
func (d declared) connect(ctx context.Context, hosts *fleet.Fleet, group *topology.Group, without []string) (_ *session, err error) {
	s := &session{declared: d, group: group, without: without, hosts: map[string]*remote.Host{}, agents: map[string]*agent.Agent{}, givenUp: map[string]error{}}
	var targets []remote.Target
	for i := range group.Members {
		to := group.Members[i].SSHTarget()
		if !slices.Contains(without, to.Name) {
			targets = append(targets, to)
			continue
		}
		s.hosts[to.Name] = remote.Absent(to.Name, to.Address, step.ErrLeftOut)
		s.agents[to.Name] = agent.Absent(s.hosts[to.Name])
		s.givenUp[to.Name] = fmt.Errorf("%s: %w", to.Name, step.ErrLeftOut)
	}
	if s.taken, err = hosts.Take(ctx, targets); err != nil {
		return nil, &connectError{group.Name, err}
	}
	for name, n := range s.taken.Nodes {
		s.hosts[name], s.agents[name] = n.Host, n.Agent
	}
	s.client = rocketmq.NewClient(rocketmq.Options{Credentials: s.credentials})
	s.nameServers = s.client.NameServers(s.topology.NameServers)
	return s, nil
}

// input makes an unreadable or wrong file a matter of usage.
func (t *target) input(err error) error {
	var found *diag.Error
	if errors.As(err, &found) {
		return err
	}
	return &usageError{err}
}

// Close takes the helper programs off the hosts and ends all connections.
func (s *session) Close() error { return errors.Join(s.taken.Close(), s.client.Close()) }

func (s *session) observe(ctx context.Context) (*observe.Facts, error) {
	return observe.Group(ctx, s.topology, s.group, observe.Hosts{Agents: s.agents, Client: s.client})
}

// observeForPlan looks, besides, whether data can go directly from host to host. That takes the Raft ports
// for a moment, which a run that is going on may need.
func (s *session) observeForPlan(ctx context.Context) (*observe.Facts, error) {
	facts, err := s.observe(ctx)
	if err != nil {
		return nil, err
	}
	if lock := facts.Lock(); lock != nil && lock.Life == grouplock.Alive {
		return facts, nil
	}
	return facts, s.reach(ctx, facts)
}

// reach looks which hosts reach one another, where that decides the way of the data.
func (s *session) reach(ctx context.Context, facts *observe.Facts) error {
	if s.transfer == plan.Bastion {
		return nil
	}
	return facts.Reach(ctx, s.agents)
}

// plan makes the plan that fits what is true now. What stands in its way is refused, as by check, also
// where the topology is to be changed for it.
func (s *session) plan(facts *observe.Facts) (*plan.Plan, error) {
	p, err := plan.Make(plan.Input{
		Topology: s.topology, Group: s.group, Facts: facts, Playbook: s.playbook, Transfer: s.transfer, RebuildIndex: s.rebuildIndex, Tool: version(),
		Describe: func(name string, p *plan.Plan) plan.Step {
			st, ok := step.ByName(name)
			if !ok {
				return plan.Step{Name: name} // the playbook was checked against the known steps
			}
			return plan.Step{Name: name, Title: st.Title(), Actions: st.Describe(p), Undo: st.UndoText()}
		},
	})
	var found *diag.Error
	if errors.As(err, &found) {
		err = &refusedError{err}
	}
	return p, err
}

// fits checks that a plan is the one that would be made now: otherwise the error is a *plan.StaleError, or
// that the hosts could not be asked.
func (s *session) fits(ctx context.Context, p *plan.Plan) error {
	facts, err := s.observe(ctx)
	if err == nil {
		err = s.reach(ctx, facts) // the lock that is found is this run's own
	}
	if err != nil {
		return err
	}
	now, err := s.plan(facts)
	if err != nil {
		return &plan.StaleError{Plan: p, Err: err}
	}
	return plan.CheckFresh(p, now)
}

// env puts together what steps work with.
func (s *session) env(p *plan.Plan, state *step.State, emit event.Sink, o step.Options) (*step.Env, error) {
	e := &step.Env{Plan: p, Client: s.client, NameServers: s.nameServers, State: state, Emit: emit, Options: o, Save: func() error { return nil }}
	for _, m := range p.Members {
		leftOut := slices.Contains(s.without, m.Host)
		switch {
		case s.hosts[m.Host] != nil:
			e.Nodes = append(e.Nodes, &step.Node{Member: m, Remote: s.hosts[m.Host], Agent: s.agents[m.Host], LeftOut: leftOut})
		case !leftOut:
			return nil, &usageError{fmt.Errorf("%s is a member in the plan and not in the topology any more; when it is gone for good and the run is to be undone, `mqlift rollback --without %s` goes back without it", m.Host, m.Host)}
		}
	}
	return e, nil
}

// running is a plan of nothing: the group as it is, for commands that only look at it.
func (s *session) running(facts *observe.Facts) (*plan.Plan, error) {
	members, err := plan.Members(s.topology, s.group, facts)
	if err != nil {
		return nil, err
	}
	return &plan.Plan{Cluster: s.topology.Cluster, Group: s.group.Name, Release: facts.Release, NameServers: s.topology.NameServers,
		Peers: s.group.Peers(), TracerTopic: s.group.TracerTopic, Members: members}, nil
}

// newRun names a run: sortable, safe in file names and keys, and not the name of one that another
// bastion begins in the same moment.
func newRun() string {
	return "run-" + time.Now().UTC().Format("20060102-150405") + "-" + strings.ToLower(rand.Text()[:6])
}

// hold keeps other processes of this machine off a group's journals; see run.Hold.
func hold(ctx context.Context, dir, command string) (*run.Hand, error) {
	operator, _ := whoAmI()
	return run.Hold(ctx, dir, run.Holder{Command: command, Operator: operator})
}

// whoAmI names the operator and this machine, for locks and reports.
func whoAmI() (operator, from string) {
	operator, from = "unknown", "unknown"
	if u, err := user.Current(); err == nil {
		operator = u.Username
	}
	if h, err := os.Hostname(); err == nil {
		from = h
	}
	return operator, from
}

// terminal tells whether w is one that takes colours and moves of the cursor.
func terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb" && os.Getenv("NO_COLOR") == ""
}

// lines is the view of events for people.
func lines(w io.Writer) *view.Lines { return &view.Lines{W: w, Color: terminal(w), TTY: terminal(w)} }

// keysOf parses TOPIC:KEY and TOPIC:FROM..TO (numbers with the same prefix and width).
func keysOf(specs []string) ([]probe.MessageKey, error) {
	var keys []probe.MessageKey
	for _, spec := range specs {
		k, err := parseKeys(spec)
		if err != nil {
			return nil, &usageError{fmt.Errorf("--keys %s: %w", spec, err)}
		}
		keys = append(keys, k...)
	}
	return keys, nil
}
