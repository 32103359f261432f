package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"mqlift/e2e/dist"
)

var releaseName = regexp.MustCompile(`^[0-9]+\.[0-9]+\.[0-9]+$`)

// FetchRelease returns the folder with a release's jars below the cache; an empty cache is
// DefaultCache. What is not there comes from Maven Central; then it is there whole, or not at all.
func FetchRelease(ctx context.Context, cache, release string, say func(string)) (string, error) {
	if cache == "" {
		var err error
		if cache, err = DefaultCache(); err != nil {
			return "", err
		}
	}
	if !releaseName.MatchString(release) {
		return "", fmt.Errorf("release %q: write it like 4.5.2", release)
	}
	jars := filepath.Join(cache, "rocketmq-"+release)
	if complete(jars, release) {
		return jars, nil
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", fmt.Errorf("creating the cache: %w", err)
	}
	unlock, err := lockWait(ctx, jars+".lock", func() { say("another mqlift is fetching RocketMQ " + release) })
	if err != nil {
		return "", err
	}
	defer unlock()
	if complete(jars, release) { // by the one that held the lock
		return jars, nil
	}
	mvn, err := exec.LookPath("mvn")
	if err != nil {
		return "", errors.New("mvn is not installed, and RocketMQ's jars are fetched with it: install Apache Maven (Debian: apt install maven)")
	}
	fresh, err := os.MkdirTemp(cache, "fetch-")
	if err != nil {
		return "", fmt.Errorf("fetching RocketMQ %s: %w", release, err)
	}
	defer os.RemoveAll(fresh)
	if err := os.Chmod(fresh, 0o755); err != nil {
		return "", fmt.Errorf("fetching RocketMQ %s: %w", release, err)
	}
	if err := runMaven(ctx, mvn, release, fresh, say); err != nil {
		return "", fmt.Errorf("fetching RocketMQ %s: %w", release, err)
	}
	if !complete(fresh, release) {
		return "", fmt.Errorf("fetching RocketMQ %s: Maven succeeded and brought no broker, name server and tools", release)
	}
	if err := os.RemoveAll(jars); err != nil { // incomplete: left over from who knows what
		return "", fmt.Errorf("fetching RocketMQ %s: %w", release, err)
	}
	if err := os.Rename(fresh, jars); err != nil {
		return "", fmt.Errorf("fetching RocketMQ %s: %w", release, err)
	}
	return jars, nil
}

// DefaultCache is where releases are kept when nobody says otherwise: below the user's cache directory.
func DefaultCache() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("choosing the cache: %w; set XDG_CACHE_HOME", err)
	}
	return filepath.Join(cache, "mqlift"), nil
}

func complete(jars, release string) bool {
	for _, artifact := range []string{"broker", "namesrv", "tools"} {
		if _, err := os.Stat(filepath.Join(jars, "rocketmq-"+artifact+"-"+release+".jar")); err != nil {
			return false
		}
	}
	return true
}

// runMaven copies the jars into a folder that is renamed when it is whole.
func runMaven(ctx context.Context, mvn, release, into string, say func(string)) error {
	project, err := os.MkdirTemp("", "mqlift-pom-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(project)
	pom := filepath.Join(project, "pom.xml")
	if err := os.WriteFile(pom, dist.POM, 0o644); err != nil {
		return err
	}
	say("fetching RocketMQ " + release + " from Maven Central, once")
	// Not -q: its lines are the progress.
	cmd := exec.CommandContext(ctx, mvn, "-B", "-f", pom, "dependency:copy-dependencies",
		"-DincludeScope=runtime", "-Drocketmq.version="+release, "-DoutputDirectory="+into)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		return err
	}
	var trouble []string
	jars, said := 0, time.Now()
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		line := lines.Text()
		switch {
		case strings.Contains(line, "Downloaded from ") && strings.Contains(line, ".jar"):
			jars++
			if time.Since(said) > 2*time.Second {
				said = time.Now()
				say(fmt.Sprintf("fetching RocketMQ %s: %d jars so far", release, jars))
			}
		case strings.Contains(line, "ERROR") && len(trouble) < 3:
			_, what, _ := strings.Cut(line, "ERROR")
			// What remains after a stop at once are hints on how to see more of it.
			if what = strings.TrimLeft(what, "] \x1b[0m"); what != "" && !strings.HasPrefix(what, "To see") && !strings.HasPrefix(what, "Re-run") {
				trouble = append(trouble, what)
			}
		}
	}
	if err := cmd.Wait(); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("mvn: %w: %s", err, strings.Join(trouble, " "))
	}
	return nil
}

var javaVersion = regexp.MustCompile(`version "([0-9]+)[^"]*"`)

// FindJava returns the folder that holds a java of version 17 or newer: JAVA_HOME's, or the one in PATH.
func FindJava(ctx context.Context) (string, error) {
	const install = "install JDK 17 or newer (Debian: apt install openjdk-17-jdk-headless) or set JAVA_HOME"
	java := "java"
	if home := os.Getenv("JAVA_HOME"); home != "" {
		java = filepath.Join(home, "bin", "java")
	}
	java, err := exec.LookPath(java)
	if err != nil {
		return "", fmt.Errorf("java is not installed: %s", install)
	}
	out, err := exec.CommandContext(ctx, java, "-version").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("running %s -version: %w: %s", java, err, install)
	}
	m := javaVersion.FindSubmatch(out)
	if m == nil {
		return "", fmt.Errorf("%s does not tell its version: %s", java, install)
	}
	if major, err := strconv.Atoi(string(m[1])); err != nil || major < 17 {
		return "", fmt.Errorf("%s is version %s: %s", java, m[1], install)
	}
	// /usr/bin/java is a link on most systems; the hosts get the folder it leads to.
	if real, err := filepath.EvalSymlinks(java); err == nil {
		java = real
	}
	return filepath.Dir(java), nil
}

// errLocked is returned by lock when another process holds the file.
var errLocked = errors.New("locked by another process")

// lock takes a file lock that ends with the process at the latest. The file stays.
func lock(name string) (unlock func(), err error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("%s: %w", name, errLocked)
		}
		return nil, &fs.PathError{Op: "flock", Path: name, Err: err}
	}
	// A lab that ended meanwhile has removed the file, and the next one has another.
	held, err := f.Stat()
	if named, nameErr := os.Stat(name); err != nil || nameErr != nil || !os.SameFile(held, named) {
		f.Close()
		return nil, fmt.Errorf("%s: %w", name, errLocked)
	}
	return func() { f.Close() }, nil
}

// lockWait waits for the lock and calls waiting now and then.
func lockWait(ctx context.Context, name string, waiting func()) (unlock func(), err error) {
	for n := 0; ; n++ {
		unlock, err := lock(name)
		if !errors.Is(err, errLocked) {
			return unlock, err
		}
		if n%30 == 0 {
			waiting()
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}
