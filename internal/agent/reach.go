package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"mqlift/internal/link"
)

// Station is a host that others are to reach: at Address, while its agent listens on Port.
type Station struct {
	Agent   *Agent
	Address string
	Port    int
}

// Reached tells whether one host could connect to another; nil: yes.
type Reached struct {
	From, To string
	Err      error
}

// Reach has each host connect to each other one as a direct copy would, for a moment, and tells what came of
// it, for all pairs in the order of the stations. An error is that of ctx.
func Reach(ctx context.Context, stations []Station) ([]Reached, error) {
	guests := make([]*guest, len(stations))
	pins := make([]string, len(stations))
	results := make([]map[string]string, len(stations))
	errs := make([]error, len(stations))
	var listening, ended sync.WaitGroup
	for i, st := range stations {
		request, err := json.Marshal(reachRequest{Port: st.Port})
		if err != nil {
			return nil, err
		}
		g := newGuest(append(request, '\n'))
		guests[i] = g
		listening.Add(1)
		known := sync.OnceFunc(listening.Done)
		g.answer.onMeet = func(who introduction) { pins[i] = who.Pin; known() }
		ended.Go(func() {
			results[i], errs[i] = visit[map[string]string](ctx, st.Agent, "reach", g)
			known()
		})
	}
	listening.Wait()
	for i, g := range guests {
		var others []reachPeer
		for j, st := range stations {
			if j != i && pins[j] != "" {
				others = append(others, reachPeer{st.Agent.Host(), st.Address, pins[j]})
			}
		}
		line, err := json.Marshal(others)
		if err != nil {
			return nil, err
		}
		go g.w.Write(append(line, '\n'))
	}
	ended.Wait()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	var l []Reached
	for i, from := range stations {
		for j, to := range stations {
			if i == j {
				continue
			}
			r := Reached{From: from.Agent.Host(), To: to.Agent.Host()}
			switch text, told := results[i][r.To]; {
			case errs[i] != nil:
				r.Err = errs[i]
			case pins[j] == "":
				r.Err = errs[j]
			case !told:
				r.Err = fmt.Errorf("%s said nothing of %s", r.From, r.To)
			case text != "":
				r.Err = errors.New(text)
			}
			l = append(l, r)
		}
	}
	return l, nil
}

type reachRequest struct {
	Port int `json:"port"`
}

type reachPeer struct {
	Host    string `json:"host"`
	Address string `json:"address"`
	Pin     string `json:"pin"`
}

// turn is how long a host waits for its port while others try the same, who may wait for one that is held here.
const turn = 2 * time.Second

// reachLimit is how long a host listens for the others: a bit longer than one of them may try to connect.
const reachLimit = 7 * time.Second

// sample is how many bytes a host sends to each other one: full packets, which may be lost where the few of a
// handshake are not (a path with a smaller MTU whose routers keep silent about it).
const sample = 256 << 10

// call connects to the peer, sends the sample, and waits for the word that all of it has come.
func (p reachPeer) call(ctx context.Context, id *link.Identity) error {
	c, err := link.Dial(ctx, p.Address, id, p.Pin, link.Encrypted)
	if err != nil {
		return err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	if _, err := c.Write(make([]byte, sample)); err != nil {
		return err
	}
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("%s answers, but %d KiB do not arrive there", p.Address, sample>>10)
		}
		return err
	}
	return nil
}

// listenTo is the other end of a call.
func listenTo(c *link.Conn) error {
	defer c.Close()
	c.SetReadDeadline(time.Now().Add(reachLimit))
	if _, err := io.CopyN(io.Discard, c, sample); err != nil {
		return err
	}
	_, err := c.Write([]byte{1})
	return err
}

// reach answers, by host, why it could not be reached; "" when it was.
func reach(ctx context.Context, r reachRequest, s *session) (map[string]string, error) {
	id, err := link.NewIdentity()
	if err != nil {
		return nil, err
	}
	l, err := link.Listen(ctx, r.Port, id, turn)
	if err != nil {
		return nil, err
	}
	defer l.Close()
	ctx, peers, err := meet[[]reachPeer](ctx, s, id, nil)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, reachLimit)
	defer cancel()
	var (
		mu    sync.Mutex
		told  = map[string]string{}
		seen  = map[int]bool{}
		pins  []string
		dials sync.WaitGroup
		all   = make(chan struct{}) // closed when every peer has come
	)
	for _, p := range peers {
		pins = append(pins, p.Pin)
		dials.Go(func() {
			err := p.call(ctx, id)
			mu.Lock()
			defer mu.Unlock()
			told[p.Host] = ""
			if err != nil {
				told[p.Host] = err.Error()
			}
		})
	}
	if len(peers) == 0 {
		close(all)
	}
	go l.Serve(ctx, pins, link.Encrypted, func(who int, c *link.Conn) {
		err := listenTo(c)
		mu.Lock()
		defer mu.Unlock()
		if err != nil || seen[who] {
			return
		}
		seen[who] = true
		if len(seen) == len(peers) {
			close(all)
		}
	})
	dials.Wait()
	select {
	case <-all:
	case <-ctx.Done():
	}
	return told, nil
}
