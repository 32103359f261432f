package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Fault is what a host's SSH server may be made to do.
type Fault string

const (
	Cut     Fault = "cut"     // drop all connections, refuse new ones
	Stall   Fault = "stall"   // keep connections and move no byte
	Restore Fault = "restore" // be well again
)

// Fault makes a host's SSH server fail, or be well again. What runs on the host is not touched.
func (l *Lab) Fault(host string, fault Fault) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	server, ok := l.hosts[host]
	if !ok {
		_, err := l.state.host(host)
		return err
	}
	switch fault {
	case Cut:
		server.Cut()
	case Stall:
		server.Stall()
	case Restore:
		if err := server.Restore(); err != nil {
			return err
		}
	default:
		return fmt.Errorf("unknown fault %q: there are %s, %s and %s", fault, Cut, Stall, Restore)
	}
	l.faults[host] = fault
	return nil
}

// Status is a lab as it is now.
type Status struct {
	Dir      string `json:"dir"`
	Topology string `json:"topology"`
	Release  string `json:"release"`
	// Running is false when the lab's process is gone; then only what lab.json says is known, and
	// which processes are left.
	Running     bool               `json:"running"`
	PID         int                `json:"pid"`
	Keeper      int                `json:"keeper,omitempty"` // its pid
	Begun       time.Time          `json:"begun"`
	NameServers []NameServerStatus `json:"nameServers"`
	Hosts       []HostStatus       `json:"hosts"`
}

// NameServerStatus is one name server's view of the broker group.
type NameServerStatus struct {
	Address string `json:"address"`
	Answers bool   `json:"answers"`
	// Brokers has the brokerId by the broker's address.
	Brokers map[string]int64 `json:"brokers,omitempty"`
}

// HostStatus is a host and what runs on it.
type HostStatus struct {
	Host
	Fault     Fault     `json:"fault,omitempty"` // Cut or Stall
	Processes []Process `json:"processes"`
}

// Status looks at the lab.
func (l *Lab) Status(ctx context.Context) (Status, error) {
	s, err := l.state.status(l.dir)
	if err != nil {
		return s, err
	}
	s.Running = true
	s.Keeper = l.keeper.pid()
	for i := range s.NameServers {
		ns := &s.NameServers[i]
		ns.Brokers = l.registered(ctx, ns.Address)
		ns.Answers = ns.Brokers != nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range s.Hosts {
		if fault := l.faults[s.Hosts[i].Name]; fault != Restore {
			s.Hosts[i].Fault = fault
		}
	}
	return s, nil
}

// status is what can be seen without the lab's process.
func (s state) status(dir string) (Status, error) {
	status := Status{Dir: dir, Topology: filepath.Join(dir, topologyFile), Release: s.Release, PID: s.PID, Begun: s.Begun}
	for _, addr := range s.NameServers {
		status.NameServers = append(status.NameServers, NameServerStatus{Address: addr})
	}
	found, err := processes(s.ID)
	if err != nil {
		return status, err
	}
	for _, h := range s.Hosts {
		host := HostStatus{Host: h, Processes: []Process{}}
		for _, p := range found {
			if p.Host == h.Name {
				host.Processes = append(host.Processes, p)
			}
		}
		status.Hosts = append(status.Hosts, host)
	}
	return status, nil
}

// serveControl answers on the lab's socket until ctx ends. down is called once, by the first request
// to end the lab, and its lines go to whoever asked.
func (l *Lab) serveControl(ctx context.Context, down func(ctx context.Context, keepFiles bool, say func(string)) error) error {
	listener, err := listenUnix(l.dir)
	if err != nil {
		return fmt.Errorf("opening the lab's socket: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, r *http.Request) {
		s, err := l.Status(r.Context())
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		json.NewEncoder(w).Encode(s)
	})
	mux.HandleFunc("POST /fault", func(w http.ResponseWriter, r *http.Request) {
		if err := l.Fault(r.FormValue("host"), Fault(r.FormValue("fault"))); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
		}
	})
	mux.HandleFunc("POST /install", func(w http.ResponseWriter, r *http.Request) {
		stream(w, func(say func(string)) error {
			dir, err := l.Install(r.Context(), r.FormValue("host"), r.FormValue("release"), say)
			if err == nil {
				say(dir)
			}
			return err
		})
	})
	mux.HandleFunc("POST /down", func(w http.ResponseWriter, r *http.Request) {
		stream(w, func(say func(string)) error {
			// Ending goes on when whoever asked for it goes away.
			return down(context.WithoutCancel(r.Context()), r.FormValue("keep") != "", say)
		})
	})
	server := &http.Server{Handler: mux}
	stopped := make(chan error, 1)
	go func() { stopped <- server.Serve(listener) }()
	select {
	case err := <-stopped:
		return fmt.Errorf("serving the lab's socket: %w", err)
	case <-ctx.Done():
	}
	closing, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	server.Shutdown(closing) // lets the answer to /down go out
	server.Close()
	return nil
}

// stream answers with one JSON object a line: {"say": …} as things go on, {"error": …} at the end.
func stream(w http.ResponseWriter, do func(say func(string)) error) {
	out := json.NewEncoder(w)
	flush := http.NewResponseController(w)
	err := do(func(line string) {
		out.Encode(streamLine{Say: line})
		flush.Flush()
	})
	last := streamLine{Done: true}
	if err != nil {
		last.Error = err.Error()
	}
	out.Encode(last)
}

type streamLine struct {
	Say   string `json:"say,omitempty"`
	Error string `json:"error,omitempty"`
	Done  bool   `json:"done,omitempty"`
}

// A socket's name has room for 107 bytes, and directories may be deeper: it is reached through an
// open descriptor of the directory.
func socketName(dir *os.File) string { return fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), socketFile) }

func listenUnix(path string) (net.Listener, error) {
	dir, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	if err := os.RemoveAll(filepath.Join(path, socketFile)); err != nil { // a dead lab's
		return nil, err
	}
	listener, err := net.Listen("unix", socketName(dir))
	if err != nil {
		return nil, err
	}
	listener.(*net.UnixListener).SetUnlinkOnClose(false) // by then the descriptor is another file's
	return listener, nil
}

func dialUnix(ctx context.Context, path string) (net.Conn, error) {
	dir, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	var d net.Dialer
	return d.DialContext(ctx, "unix", socketName(dir))
}

// ask sends a request to the lab that runs in a directory.
func ask(ctx context.Context, dir, method, path string, form url.Values) (*http.Response, error) {
	transport := &http.Transport{
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return dialUnix(ctx, dir) },
		DisableKeepAlives: true,
	}
	target := "http://lab" + path + "?" + form.Encode()
	request, err := http.NewRequestWithContext(ctx, method, target, nil)
	if err != nil {
		return nil, err
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return nil, fmt.Errorf("asking the lab in %s: %w", dir, err)
	}
	if response.StatusCode != http.StatusOK {
		defer response.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(response.Body, 4096))
		return nil, errors.New(strings.TrimSpace(string(text)))
	}
	return response, nil
}

// askStream sends a request whose answer is a stream of lines.
func askStream(ctx context.Context, dir, path string, form url.Values, say func(string)) error {
	response, err := ask(ctx, dir, http.MethodPost, path, form)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	lines := json.NewDecoder(response.Body)
	for {
		var line streamLine
		if err := lines.Decode(&line); err != nil {
			return fmt.Errorf("the lab in %s went away: %w", dir, err)
		}
		switch {
		case line.Error != "":
			return errors.New(line.Error)
		case line.Done:
			return nil
		default:
			say(line.Say)
		}
	}
}
