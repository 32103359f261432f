package agent

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"mqlift/internal/hostinfo"
)

// Kind is what a RocketMQ process is.
type Kind string

const (
	Broker     Kind = "broker"
	NameServer Kind = "name server"
	// Proxy is a 5.x proxy with a broker inside (--enable-proxy, local mode).
	Proxy Kind = "proxy"
	// Container is a 5.x process with several brokers; mqlift does not move those.
	Container Kind = "container"
)

// RocketMQ is a process of RocketMQ.
type RocketMQ struct {
	hostinfo.Process
	Kind Kind `json:"kind"`
	// Java tells the JVM from the shells and wrappers around it, whose arguments look the same.
	Java bool `json:"java"`
	// Conf is the absolute path of the configuration file it was started with, empty when it was
	// started without one or its working directory cannot be read.
	Conf string `json:"conf,omitempty"`
	// Env are the variables that RocketMQ's scripts and classes go by, as the process has them;
	// empty when this user may not read them.
	Env map[string]string `json:"env,omitempty"`
}

// environmentNames are what bin/runbroker.sh and MixAll (4.5.2, 5.3.3) read.
func environmentNames() []string {
	return []string{"JAVA_HOME", "JAVA_OPT_EXT", "NAMESRV_ADDR", "RMQ_NUMA_NODE", "ROCKETMQ_HOME"}
}

// secretValue finds values that JVM options give to properties with a telling name.
var secretValue = regexp.MustCompile(`(?i)(-D\S*(?:password|passwd|secret|token)[^\s=]*=)\S+`)

func withoutSecrets(s string) string { return secretValue.ReplaceAllString(s, "${1}[secret]") }

// mainClass is a class that RocketMQ's scripts start (bin of 4.5.2, 4.9.7, 5.3.3), and the options
// that name its configuration file, as its buildCommandlineOptions has them.
type mainClass struct {
	kind        Kind
	name        string
	short, long string
}

func mainClasses() []mainClass {
	return []mainClass{
		{Broker, "org.apache.rocketmq.broker.BrokerStartup", "-c", "--configFile"},
		{NameServer, "org.apache.rocketmq.namesrv.NamesrvStartup", "-c", "--configFile"},
		{Proxy, "org.apache.rocketmq.proxy.ProxyStartup", "-bc", "--brokerConfigPath"},
		{Container, "org.apache.rocketmq.container.BrokerContainerStartup", "-c", "--configFile"},
	}
}

func rocketMQProcesses(all []hostinfo.Process) []RocketMQ {
	var found []RocketMQ
	for _, p := range all {
		for _, class := range mainClasses() {
			// The class is an argument of its own, so that an editor or a grep that has it in a
			// longer string does not count.
			at := slices.Index(p.Argv, class.name)
			if at < 1 {
				continue
			}
			r := RocketMQ{Process: p, Kind: class.kind, Java: isJava(p)}
			r.Conf = class.conf(p.Argv[at+1:], p.Dir)
			r.Argv = slices.Clone(p.Argv)
			for i := range r.Argv {
				r.Argv[i] = withoutSecrets(r.Argv[i])
			}
			r.Env = map[string]string{}
			for _, name := range environmentNames() {
				if value, ok := hostinfo.Environment(p.PID, name); ok {
					r.Env[name] = withoutSecrets(value)
				}
			}
			found = append(found, r)
			break
		}
	}
	return found
}

func isJava(p hostinfo.Process) bool {
	program := p.Exe
	if program == "" {
		program = p.Argv[0]
	}
	return filepath.Base(strings.TrimSuffix(program, " (deleted)")) == "java"
}

// conf finds the configuration file as commons-cli does: the first of several is taken, and "-cX"
// and "--configFile=X" are as good as two arguments.
func (m mainClass) conf(args []string, dir string) string {
	for i, arg := range args {
		var file string
		switch {
		case (arg == m.short || arg == m.long) && i+1 < len(args):
			file = args[i+1]
		case strings.HasPrefix(arg, m.long+"="):
			file = strings.TrimPrefix(arg, m.long+"=")
		case len(m.short) == 2 && len(arg) > 2 && strings.HasPrefix(arg, m.short):
			file = strings.TrimPrefix(arg, m.short)
		}
		if file == "" {
			continue
		}
		if filepath.IsAbs(file) {
			return filepath.Clean(file)
		}
		if dir == "" {
			return ""
		}
		return filepath.Join(dir, file)
	}
	return ""
}

// runs tells whether the process is the JVM of a broker with that configuration file.
func (p *RocketMQ) runs(conf string) bool {
	return p.Java && p.Kind != NameServer && samePath(p.Conf, conf)
}

// samePath tells whether two paths name the same file, also by way of links.
func samePath(a, b string) bool {
	if a == "" || b == "" {
		return false
	}
	if filepath.Clean(a) == filepath.Clean(b) {
		return true
	}
	x, errX := os.Stat(a)
	y, errY := os.Stat(b)
	return errX == nil && errY == nil && os.SameFile(x, y)
}

// Broker returns the JVM that runs a broker with that configuration file, nil when none does. It is
// cheap, for asking again and again.
func (a *Agent) Broker(ctx context.Context, conf string) (*RocketMQ, error) {
	return call[*RocketMQ](ctx, a, "broker", conf, nil)
}

func findBroker(_ context.Context, conf string, _ *session) (*RocketMQ, error) {
	found, err := brokersWith(conf)
	if err != nil || len(found) == 0 {
		return nil, err
	}
	return &found[0], nil
}

// brokersWith returns the JVMs that run a broker with that configuration file, which may have been
// named in another way, and is reported as it is named here.
func brokersWith(conf string) ([]RocketMQ, error) {
	processes, err := hostinfo.Processes()
	if err != nil {
		return nil, err
	}
	var found []RocketMQ
	for _, p := range rocketMQProcesses(processes) {
		if p.runs(conf) {
			p.Conf = conf
			found = append(found, p)
		}
	}
	return found, nil
}
