package transfer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// placement puts files under their names on the target.
type placement struct {
	Options
	root     string
	trees    []*treePlace
	logs     []logList
	incoming map[string]*incomingDir // by the folder named by Options or found for a place
	parts    int
}

type treePlace struct {
	path   string
	dirs   []entry // parents first
	files  []staged
	wanted map[string]bool // path → is a folder
}

// staged is a complete file that has not got its name yet, or one that keeps it.
type staged struct {
	entry
	temp string // its name until then, or its own
}

func newPlacement(root string, o Options) *placement {
	return &placement{Options: o, root: root, incoming: map[string]*incomingDir{}}
}

func (p *placement) path(rel string) string { return filepath.Join(p.root, rel) }

// tree begins a tree; the dirs and files that follow belong to it.
func (p *placement) tree(path string) error {
	if !filepath.IsLocal(path) || filepath.Clean(path) != path || path == "." {
		return fmt.Errorf("tree %q: %w", path, ErrCorrupt)
	}
	if err := p.checkQuarantine(path); err != nil {
		return err
	}
	p.trees = append(p.trees, &treePlace{path: path, wanted: map[string]bool{}})
	return nil
}

// in is the tree that a path of the stream belongs to: nothing outside of it may be written.
func (p *placement) in(path string) (*treePlace, error) {
	if len(p.trees) > 0 && filepath.IsLocal(path) && filepath.Clean(path) == path {
		t := p.trees[len(p.trees)-1]
		_, twice := t.wanted[path]
		if (path == t.path || strings.HasPrefix(path, t.path+"/")) && !twice {
			return t, nil
		}
	}
	return nil, fmt.Errorf("path %q is outside of its tree, or there twice: %w", path, ErrCorrupt)
}

func (p *placement) dir(e entry) error {
	t, err := p.in(e.Path)
	if err != nil {
		return err
	}
	t.dirs = append(t.dirs, e)
	t.wanted[e.Path] = true
	return nil
}

// file makes the temporary file for a file of the tree, at its full length.
func (p *placement) file(e entry) (*os.File, error) {
	t, err := p.in(e.Path)
	if err != nil {
		return nil, err
	}
	f, err := p.part(p.path(t.path), e.Size)
	if err != nil {
		return nil, err
	}
	t.files = append(t.files, staged{e, f.Name()})
	t.wanted[e.Path] = false
	return f, nil
}

// keep takes a file of the tree for what stands there already.
func (p *placement) keep(e entry) error {
	t, err := p.in(e.Path)
	if err != nil {
		return err
	}
	final := p.path(e.Path)
	look := os.Lstat
	if e.Path == t.path { // the operator may have made a link of it
		look = os.Stat
	}
	if info, err := look(final); err != nil || !info.Mode().IsRegular() || info.Size() != e.Size {
		return fmt.Errorf("%s is to be kept, and is no file of %d bytes (any more): %w", final, e.Size, ErrCorrupt)
	}
	t.files = append(t.files, staged{e, final})
	t.wanted[e.Path] = false
	return nil
}

// log begins a commit log, whose folder is made.
func (p *placement) log(l logList) error {
	if !filepath.IsLocal(l.Path) || filepath.Clean(l.Path) != l.Path {
		return fmt.Errorf("commit log %q: %w", l.Path, ErrCorrupt)
	}
	if l.Path == "." && p.Incoming == "" {
		return errors.New("the commit log is the root itself: name a folder for incoming files outside of it")
	}
	if err := p.checkQuarantine(l.Path); err != nil {
		return err
	}
	if err := mkdirAll(p.path(l.Path)); err != nil {
		return err
	}
	p.logs = append(p.logs, l)
	extra, err := p.extraLogFiles(l)
	if err == nil && len(extra) > 0 && p.Quarantine == "" {
		err = &ExtraError{extra}
	}
	return err
}

func (p *placement) checkQuarantine(path string) error {
	if p.Quarantine == "" {
		return nil
	}
	rel, err := filepath.Rel(p.path(path), p.Quarantine)
	if err == nil && filepath.IsLocal(rel) {
		return fmt.Errorf("the quarantine %s is inside of %s, which is transferred", p.Quarantine, p.path(path))
	}
	return nil
}

func (p *placement) hasLogFile(l logList, name string) bool {
	info, err := os.Stat(filepath.Join(p.path(l.Path), name))
	return err == nil && info.Mode().IsRegular() && info.Size() == l.FileSize
}

// logFile makes a new commit log file under a temporary name; done gives it its own.
func (p *placement) logFile(ctx context.Context, path string, e entry) (*os.File, func() error, error) {
	final := p.path(path)
	f, err := p.part(filepath.Dir(final), e.Size)
	if err != nil {
		return nil, nil, err
	}
	return f, func() error {
		if _, err := os.Lstat(final); err == nil { // of another length
			if err := p.moveAway(ctx, path); err != nil {
				return err
			}
		}
		if err := inherit(f.Name(), filepath.Dir(final)); err != nil {
			return err
		}
		if err := os.Rename(f.Name(), final); err != nil {
			return err
		}
		return syncDir(filepath.Dir(final))
	}, nil
}

// part makes a temporary file of that length for something that goes into or becomes place.
func (p *placement) part(place string, size int64) (*os.File, error) {
	in, err := p.incomingFor(place)
	if err != nil {
		return nil, err
	}
	p.parts++
	f, err := os.OpenFile(filepath.Join(in.run, fmt.Sprintf("%d", p.parts)), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	if err := f.Truncate(size); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// IncomingName is the folder for files that are not complete yet, where none is named by Options or the
// one that is lies on another file system. It is gone when the transfer has ended. A host that died leaves
// it behind, perhaps inside of a commit log: no broker starts with it there.
const IncomingName = ".mqlift-incoming"

// existing is the nearest folder of a path that exists, links resolved: it decides about the file system.
func existing(path string) (string, error) {
	for {
		resolved, err := filepath.EvalSymlinks(path)
		if err == nil {
			return resolved, nil
		}
		if !errors.Is(err, fs.ErrNotExist) || path == filepath.Dir(path) {
			return "", err
		}
		path = filepath.Dir(path)
	}
}

func sameDevice(a, b string) (bool, error) {
	at, err := existing(a)
	if err != nil {
		return false, err
	}
	var x, y unix.Stat_t
	if err := errors.Join(unix.Stat(at, &x), unix.Stat(b, &y)); err != nil {
		return false, err
	}
	return x.Dev == y.Dev, nil
}

// incomingDir is a folder for temporary files. Each run has its own folder in it, locked, so that
// what a killed run left can be told from what belongs to one that is alive.
type incomingDir struct {
	dir, run string
	lock     *os.File
}

// incomingFor chooses where files lie until they get their names in place: in Options.Incoming, or else
// beside it. Where it is a mount point, or a link to one, only a folder inside of it is on the same file
// system, without which no file gets its name at once.
func (p *placement) incomingFor(place string) (*incomingDir, error) {
	folder, err := existing(place)
	if err != nil {
		return nil, err
	}
	beside := filepath.Join(filepath.Dir(folder), IncomingName)
	if _, err := os.Lstat(place); err != nil { // it is not there yet: this is a folder above it
		beside = filepath.Join(folder, IncomingName)
	}
	dir := filepath.Join(folder, IncomingName)
	for _, candidate := range []string{p.Incoming, beside} {
		if candidate == "" {
			continue
		}
		same, err := sameDevice(candidate, folder)
		if err != nil {
			return nil, err
		}
		if same {
			dir = candidate
			break
		}
	}
	if in := p.incoming[dir]; in != nil {
		return in, nil
	}
	if err := mkdirAll(dir); err != nil {
		return nil, err
	}
	old, err := filepath.Glob(filepath.Join(dir, "run-*"))
	if err != nil {
		return nil, err
	}
	for _, run := range old {
		if lock, err := lockDir(run); err == nil {
			err = os.RemoveAll(run)
			lock.Close()
			if err != nil {
				return nil, fmt.Errorf("left-overs of an earlier run: %w", err)
			}
		}
	}
	for {
		run, err := os.MkdirTemp(dir, "run-")
		if err != nil {
			return nil, err
		}
		lock, err := lockDir(run)
		if err != nil {
			continue // another run took it for a left-over
		}
		if _, err := os.Stat(run); err != nil {
			lock.Close()
			continue
		}
		in := &incomingDir{dir: dir, run: run, lock: lock}
		p.incoming[dir] = in
		return in, nil
	}
}

func lockDir(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// cleanUp removes this run's temporary files.
func (p *placement) cleanUp() error {
	var errs []error
	for _, in := range p.incoming {
		errs = append(errs, os.RemoveAll(in.run))
		os.Remove(in.dir) // stays when another run is in it
		in.lock.Close()
	}
	return errors.Join(errs...)
}

// commit moves away what the source does not have and puts the trees in place. It returns what was
// moved away.
func (p *placement) commit(ctx context.Context) ([]string, error) {
	// To disk first, so that no name can come to stand for less than the whole file.
	group, alive := errgroup.WithContext(ctx)
	group.SetLimit(8)
	for _, t := range p.trees {
		for _, f := range t.files {
			group.Go(func() error {
				if err := alive.Err(); err != nil {
					return err
				}
				file, err := os.OpenFile(f.temp, os.O_RDWR, 0)
				if err != nil {
					return err
				}
				return errors.Join(finishFile(file, f.entry), closed(file))
			})
		}
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	var extra []string
	for _, t := range p.trees {
		e, err := p.extraInTree(t)
		if err != nil {
			return nil, err
		}
		extra = append(extra, e...)
	}
	for _, l := range p.logs {
		e, err := p.extraLogFiles(l)
		if err != nil {
			return nil, err
		}
		extra = append(extra, e...)
	}
	if len(extra) > 0 && p.Quarantine == "" {
		return nil, &ExtraError{extra}
	}
	for _, path := range extra {
		if err := p.moveAway(ctx, path); err != nil {
			return nil, err
		}
	}
	for _, t := range p.trees {
		if err := p.putTree(t); err != nil {
			return extra, err
		}
	}
	for _, l := range p.logs {
		if err := syncDir(p.path(l.Path)); err != nil {
			return extra, err
		}
	}
	return extra, nil
}

// closed closes a file that finishFile may have left open.
func closed(f *os.File) error {
	if err := f.Close(); !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}

func (p *placement) putTree(t *treePlace) error {
	for _, d := range t.dirs {
		if err := mkdirAll(p.path(d.Path)); err != nil {
			return err
		}
	}
	touched := map[string]bool{}
	for _, f := range t.files {
		if f.Keep {
			continue
		}
		final := p.path(f.Path)
		if err := mkdirAll(filepath.Dir(final)); err != nil {
			return err
		}
		if err := inherit(f.temp, filepath.Dir(final)); err != nil {
			return err
		}
		if err := os.Rename(f.temp, final); err != nil {
			return err
		}
		touched[filepath.Dir(final)] = true
	}
	for _, d := range slices.Backward(t.dirs) {
		final := p.path(d.Path)
		if err := os.Chmod(final, d.Mode.Perm()); err != nil {
			return err
		}
		if err := os.Chtimes(final, time.Time{}, d.Modified); err != nil {
			return err
		}
		touched[final] = true
	}
	for dir := range touched {
		if err := syncDir(dir); err != nil {
			return err
		}
	}
	return nil
}

// extraInTree lists what the target has in a tree and the source has not, or as something else;
// of a folder only the folder itself.
func (p *placement) extraInTree(t *treePlace) ([]string, error) {
	top, err := filepath.EvalSymlinks(p.path(t.path)) // the operator may have made a link of it
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var extra []string
	err = filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && d.Name() == IncomingName {
			return fs.SkipDir
		}
		rel, err := filepath.Rel(top, path)
		if err != nil {
			return err
		}
		rel = filepath.Join(t.path, rel)
		if wantDir, ok := t.wanted[rel]; ok && wantDir == d.IsDir() {
			return nil
		}
		extra = append(extra, rel)
		if d.IsDir() {
			return fs.SkipDir
		}
		return nil
	})
	return extra, err
}

func (p *placement) extraLogFiles(l logList) ([]string, error) {
	entries, err := os.ReadDir(p.path(l.Path))
	if err != nil {
		return nil, err
	}
	var extra []string
	for _, e := range entries {
		if e.Name() == IncomingName {
			continue
		}
		if !slices.ContainsFunc(l.Files, func(f entry) bool { return f.Path == e.Name() }) {
			extra = append(extra, filepath.Join(l.Path, e.Name()))
		}
	}
	return extra, nil
}

// moveAway puts a path below the root into quarantine, under a name of its own if there is one.
func (p *placement) moveAway(ctx context.Context, path string) error {
	if p.Quarantine == "" {
		return &ExtraError{[]string{path}}
	}
	to := filepath.Join(p.Quarantine, path)
	for n := 1; ; n++ {
		if _, err := os.Lstat(to); errors.Is(err, fs.ErrNotExist) {
			break
		} else if err != nil {
			return err
		}
		to = filepath.Join(p.Quarantine, fmt.Sprintf("%s~%d", path, n))
	}
	if err := mkdirAll(filepath.Dir(to)); err != nil {
		return err
	}
	err := os.Rename(p.path(path), to)
	if errors.Is(err, unix.EXDEV) { // the folder is a mount point, or a link
		err = moveAcross(ctx, p.path(path), to)
	}
	if err != nil {
		return fmt.Errorf("move to quarantine: %w", err)
	}
	return errors.Join(syncDir(filepath.Dir(p.path(path))), syncDir(filepath.Dir(to)))
}

// moveAcross moves a file to another file system: it is there whole, and on disk, before it goes here.
func moveAcross(ctx context.Context, from, to string) (err error) {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	info, err := src.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is no file, and %s is on another file system: move it away yourself", from, filepath.Dir(to))
	}
	dst, err := os.OpenFile(to, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		dst.Close()
		if err != nil {
			os.Remove(to)
		}
	}()
	if err := dst.Truncate(info.Size()); err != nil {
		return err
	}
	err = eachData(ctx, src, 0, info.Size(), make([]byte, maxData), func(at int64, b []byte) error {
		_, err := dst.WriteAt(b, at)
		return err
	})
	if err != nil {
		return err
	}
	err = finishFile(dst, entry{Size: info.Size(), Mode: info.Mode().Perm(), Modified: info.ModTime()})
	if err == nil {
		err = errors.Join(inherit(to, filepath.Dir(to)), syncDir(filepath.Dir(to)))
	}
	if err != nil {
		return err
	}
	return os.Remove(from)
}

// mkdirAll makes a folder and those above it, each belonging to whom the one above it belongs.
func mkdirAll(dir string) error {
	if info, err := os.Stat(dir); err == nil {
		if !info.IsDir() {
			return &fs.PathError{Op: "mkdir", Path: dir, Err: syscall.ENOTDIR}
		}
		return nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	above := filepath.Dir(dir)
	if err := mkdirAll(above); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return errors.Join(inherit(dir, above), syncDir(above))
}

// inherit gives path the owner of a folder when the process is allowed to: an agent that runs by
// sudo must not leave files that the broker's user cannot write.
func inherit(path, dir string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	return os.Lchown(path, int(st.Uid), int(st.Gid))
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Sync(); err != nil && !errors.Is(err, unix.EINVAL) { // some file systems sync no folders
		return err
	}
	return nil
}
