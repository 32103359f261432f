package lab

import (
	"embed"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// The parts of an installation that Maven's artifacts do not have.
//
//go:embed install
var installFiles embed.FS

// Each logback file goes by two names: the first is read by 4.x, the second by 5.x.
var logbackNames = map[string][2]string{
	"broker.xml":  {"logback_broker.xml", "rmq.broker.logback.xml"},
	"namesrv.xml": {"logback_namesrv.xml", "rmq.namesrv.logback.xml"},
	"tools.xml":   {"logback_tools.xml", "rmq.tools.logback.xml"},
}

// LayOut lays a release out as upstream's archive does, with bin/, conf/ and lib/ and without
// any broker.conf or store; jars is the folder that FetchRelease returns.
func LayOut(dir, jars string) error {
	fail := func(err error) error { return fmt.Errorf("installing RocketMQ in %s: %w", dir, err) }
	for _, sub := range []string{"bin", "conf", "lib", "logs"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return fail(err)
		}
	}
	scripts, err := installFiles.ReadDir("install/bin")
	if err != nil {
		return fail(err)
	}
	for _, script := range scripts {
		data, err := installFiles.ReadFile("install/bin/" + script.Name())
		if err != nil {
			return fail(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "bin", script.Name()), data, 0o755); err != nil {
			return fail(err)
		}
	}
	for file, names := range logbackNames {
		data, err := installFiles.ReadFile("install/conf/" + file)
		if err != nil {
			return fail(err)
		}
		for _, name := range names {
			if err := os.WriteFile(filepath.Join(dir, "conf", name), data, 0o644); err != nil {
				return fail(err)
			}
		}
	}
	entries, err := os.ReadDir(jars)
	if err != nil {
		return fail(err)
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".jar") {
			if err := linkOrCopy(filepath.Join(jars, e.Name()), filepath.Join(dir, "lib", e.Name())); err != nil {
				return fail(err)
			}
		}
	}
	return nil
}

// linkOrCopy makes a second name for a file that nobody writes to, or a copy on another file system.
func linkOrCopy(from, to string) error {
	err := os.Link(from, to)
	if !errors.Is(err, syscall.EXDEV) && !errors.Is(err, syscall.EPERM) && !errors.Is(err, syscall.EMLINK) {
		return err
	}
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	if _, err := io.Copy(dst, src); err != nil {
		dst.Close()
		return err
	}
	return dst.Close()
}

// brokerConf is a broker.conf as the reference case has it, plus the ports and the log file size that
// a lab needs.
func brokerConf(h Host, nameServers []string, logFileSize int64) string {
	var b strings.Builder
	for _, kv := range [][2]any{
		{"brokerClusterName", clusterName},
		{"brokerName", groupName},
		{"brokerId", h.BrokerID},
		{"brokerRole", h.Role},
		{"deleteWhen", "04"},
		{"fileReservedTime", 48},
		{"flushDiskType", "ASYNC_FLUSH"},
		{"brokerIP1", h.Address},
		{"brokerIP2", h.Address},
		{"listenPort", h.ListenPort},
		{"namesrvAddr", strings.Join(nameServers, ";")},
		{"storePathRootDir", h.InstallDir + "/store"},
		{"storePathCommitLog", h.InstallDir + "/store/commitlog"},
		{"mappedFileSizeCommitLog", logFileSize},
		{"autoCreateTopicEnable", false},
		{"autoCreateSubscriptionGroup", false},
	} {
		fmt.Fprintf(&b, "%v=%v\n", kv[0], kv[1])
	}
	return b.String()
}
