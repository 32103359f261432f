package agent

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

// Command is the hidden command that the pushed binary is called with. Its sub-commands read one
// JSON request line from stdin and answer with JSON lines on stdout; see wire.go.
func Command() *cobra.Command {
	c := &cobra.Command{
		Use: "agent", Hidden: true,
		Short: "What mqlift runs on a broker host by itself; not for use by hand",
		Args:  cobra.NoArgs,
	}
	c.AddCommand(
		verb("hello", hello),
		verb("environment", printEnvironment),
		verb("facts", facts),
		verb("broker", findBroker),
		verb("start", startBroker),
		verb("stop", stopBroker),
		verb("kill", killBroker),
		verb("wait-port", waitPort),
		verb("read-file", func(_ context.Context, path string, _ *session) (*File, error) { return readFile(path) }),
		verb("write-file", writeFile),
		verb("move-aside", moveAside),
		verb("list", func(ctx context.Context, r ListRequest, s *session) ([]Entry, error) {
			return listTree(ctx, r, s.progress())
		}),
		verb("tail", func(_ context.Context, r TailRequest, _ *session) (Tail, error) { return tailFile(r) }),
		verb("lock", lockFile),
		verb("inspect", inspect),
		verb("log-digests", logDigests),
		verb("log-bytes", logBytes),
		verb("log-place", logPlace),
		verb("metadata", readMetadata),
		verb("copy-local", copyLocal),
		verb("unpack", unpack),
		dataVerb("pack", pack),
		verb("receive", receive),
		verb("send", send),
		verb("reach", reach),
		verb("bridge", runBridge),
	)
	return c
}

// verb makes a sub-command of a function. An error is in the answer, and makes the exit status not 0.
func verb[Request, Result any](name string, run func(context.Context, Request, *session) (Result, error)) *cobra.Command {
	return command(name, run, func(c *cobra.Command) (answer, data io.Writer) { return c.OutOrStdout(), nil })
}

// dataVerb is a verb that writes data to stdout, and its answer to stderr.
func dataVerb[Request, Result any](name string, run func(context.Context, Request, *session) (Result, error)) *cobra.Command {
	return command(name, run, func(c *cobra.Command) (answer, data io.Writer) { return c.ErrOrStderr(), c.OutOrStdout() })
}

func command[Request, Result any](name string, run func(context.Context, Request, *session) (Result, error),
	outputs func(*cobra.Command) (answer, data io.Writer)) *cobra.Command {
	return &cobra.Command{
		Use: name, Args: cobra.NoArgs, SilenceErrors: true, SilenceUsage: true,
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, stop := untilUnheard(c.Context())
			defer stop()
			ctx, stop = untilRemoved(ctx)
			defer stop()
			answer, data := outputs(c)
			ctx, s := openSession(ctx, answer)
			in := bufio.NewReaderSize(c.InOrStdin(), 1<<20)
			s.in, s.data = in, data
			var result Result
			request, err := readRequest[Request](in)
			if err == nil {
				result, err = run(ctx, request, s)
			}
			s.finish(result, err)
			return err
		},
	}
}

// untilUnheard ends the context on the signals that tell an agent to go. SIGPIPE must not kill before temporary
// files are removed, and is not among them: it comes of a lost connection to another host, too. That nobody
// listens any more is told by the write that fails.
func untilUnheard(ctx context.Context) (context.Context, context.CancelFunc) {
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE) // not Ignore, which a broker that is started would inherit
	return signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
}

// untilRemoved ends the context when the agent's directory is removed, which says that nobody waits for it any
// more, also where nothing tells the connection's end. What hangs in an output that nobody takes is ended.
func untilRemoved(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	own, err := os.Executable()
	if err != nil {
		return ctx, func() { cancel(nil) }
	}
	go func() {
		tick := time.NewTicker(heartbeat)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if _, err := os.Lstat(own); errors.Is(err, fs.ErrNotExist) {
				cancel(errRemoved)
				time.AfterFunc(leaveWait, func() { os.Exit(1) })
				return
			}
		}
	}()
	return ctx, func() { cancel(nil) }
}

var errRemoved = errors.New("the agent was removed from the host")

// leaveWait is how long an agent that was removed may take to clear up.
const leaveWait = 5 * time.Second

// readRequest reads the request line; of verbs that ask for nothing there may be none. One without its
// end was cut on its way: nothing is done then.
func readRequest[Request any](r *bufio.Reader) (Request, error) {
	var request Request
	if _, none := any(request).(struct{}); none {
		return request, nil
	}
	line, err := r.ReadBytes('\n')
	if err == io.EOF {
		err = fmt.Errorf("it was cut after %d bytes", len(line))
	}
	if err == nil {
		err = json.Unmarshal(line, &request)
	}
	if err != nil {
		return request, fmt.Errorf("the request: %w", err)
	}
	return request, nil
}
