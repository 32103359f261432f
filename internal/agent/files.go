package agent

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"mqlift/internal/hostinfo"
)

// ErrChanged says that a file is not what the caller took it to be.
var ErrChanged = errors.New("the file has changed meanwhile")

// maxSmallFile is the most that ReadFile reads: configuration files, not data.
const maxSmallFile = 16 << 20

// File is a small file with what belongs to it.
type File struct {
	Path    string      `json:"path"`
	Content []byte      `json:"content"`
	Mode    fs.FileMode `json:"mode"`
	Owner
	Modified time.Time `json:"modified"`
	SHA256   string    `json:"sha256"`
}

// ReadFile reads a file of up to 16 MiB.
func (a *Agent) ReadFile(ctx context.Context, path string) (*File, error) {
	return call[*File](ctx, a, "read-file", path, nil)
}

func readFile(path string) (*File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	content, err := io.ReadAll(io.LimitReader(f, maxSmallFile+1))
	if err != nil {
		return nil, err
	}
	if len(content) > maxSmallFile {
		return nil, fmt.Errorf("%s has more than %d bytes", path, maxSmallFile)
	}
	return &File{
		Path: path, Content: content, Mode: st.Mode().Perm(), Owner: ownerOf(st),
		Modified: st.ModTime(), SHA256: digest(content),
	}, nil
}

func ownerOf(st fs.FileInfo) Owner {
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return Owner{}
	}
	uid, gid := int(sys.Uid), int(sys.Gid)
	return Owner{uid, gid, hostinfo.UserName(uid), hostinfo.GroupName(gid)}
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func sha256File(ctx context.Context, path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, &contextReader{ctx, f}); err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// contextReader stops reading when the context ends.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *contextReader) Read(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.r.Read(p)
}

// WriteRequest says what is to be in a file.
type WriteRequest struct {
	Path    string `json:"path"`
	Content []byte `json:"content"`
	// Mode is for a new file, 0 meaning 0644. An existing one keeps mode and owner; a new one gets
	// the owner of its directory, so far as this user may do that.
	Mode fs.FileMode `json:"mode,omitempty"`
	// Replaces, if not empty, is the SHA-256 of the content that is to be replaced; "absent" when
	// there must be no such file. ErrChanged when it is otherwise.
	Replaces string `json:"replaces,omitempty"`
	// Backup, if not empty, is where the previous content is kept, with mode, owner and time. A file
	// that is there already is left as it is: it is from an earlier try.
	Backup string `json:"backup,omitempty"`
}

// WriteFile replaces a file's content as one: a reader sees the old or the new one, and after a
// crash one of the two is there. A symbolic link is followed. Not for commit log folders, in which
// the temporary file would stop a broker from starting.
func (a *Agent) WriteFile(ctx context.Context, r WriteRequest) error {
	_, err := call[struct{}](ctx, a, "write-file", r, nil)
	return err
}

func writeFile(_ context.Context, r WriteRequest, _ *session) (struct{}, error) {
	var none struct{}
	if !filepath.IsAbs(r.Path) {
		return none, fmt.Errorf("%q is not an absolute path", r.Path)
	}
	path := r.Path
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	old, err := readFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		old, err = nil, nil
	}
	if err != nil {
		return none, err
	}
	switch {
	case r.Replaces == "":
	case r.Replaces == "absent" && old != nil:
		return none, fmt.Errorf("%s exists: %w", path, ErrChanged)
	case r.Replaces != "absent" && (old == nil || old.SHA256 != r.Replaces):
		return none, fmt.Errorf("%s: %w", path, ErrChanged)
	}
	file := File{Path: path, Content: r.Content, Mode: r.Mode}
	if old != nil {
		file.Mode, file.Owner = old.Mode, old.Owner
		if _, err := os.Lstat(r.Backup); r.Backup != "" && errors.Is(err, fs.ErrNotExist) {
			backup := *old
			backup.Path = r.Backup
			if err := replace(backup); err != nil {
				return none, fmt.Errorf("keeping the previous content: %w", err)
			}
		}
	} else {
		if file.Mode == 0 {
			file.Mode = 0o644
		}
		st, err := os.Stat(filepath.Dir(path))
		if err != nil {
			return none, err
		}
		file.Owner = ownerOf(st)
	}
	return none, replace(file)
}

// replace puts the file in its place: written beside it, on disk, then renamed.
func replace(f File) (err error) {
	dir := filepath.Dir(f.Path)
	tmp, err := os.CreateTemp(dir, "."+filepath.Base(f.Path)+".mqlift-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			tmp.Close()
			os.Remove(tmp.Name())
		}
	}()
	if _, err := tmp.Write(f.Content); err != nil {
		return err
	}
	if err := tmp.Chmod(f.Mode); err != nil {
		return err
	}
	if err := tmp.Chown(f.UID, f.GID); err != nil && os.Geteuid() == 0 {
		return err
	} // another user's file that this one may replace, but not give away, becomes this one's
	if !f.Modified.IsZero() {
		if err := os.Chtimes(tmp.Name(), time.Time{}, f.Modified); err != nil {
			return err
		}
	}
	if err := tmp.Sync(); err != nil {
		return err
	}
	if err := tmp.Close(); err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), f.Path); err != nil {
		return err
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// MoveAsideRequest says what is to be moved out of the way, and for which run.
type MoveAsideRequest struct {
	Path string `json:"path"`
	Run  string `json:"run"`
}

// MoveAside renames a file or directory to <path>.mqlift-<run>, with a number behind it if that is
// taken, and returns the new name. fs.ErrNotExist when there is no such path.
func (a *Agent) MoveAside(ctx context.Context, path, run string) (string, error) {
	return call[string](ctx, a, "move-aside", MoveAsideRequest{path, run}, nil)
}

func moveAside(_ context.Context, r MoveAsideRequest, _ *session) (string, error) {
	path := filepath.Clean(r.Path)
	if !filepath.IsAbs(path) || path == "/" {
		return "", fmt.Errorf("%q cannot be moved aside: an absolute path below / is needed", r.Path)
	}
	if !regexp.MustCompile(`^[\w.-]+$`).MatchString(r.Run) {
		return "", fmt.Errorf("%q is no name of a run", r.Run)
	}
	for n := 1; n < 1000; n++ {
		to := path + ".mqlift-" + r.Run
		if n > 1 {
			to += fmt.Sprintf("-%d", n)
		}
		err := renameNoReplace(path, to)
		if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL) {
			// Kernels before 3.15 and some network file systems cannot do it in one go.
			if _, err = os.Lstat(to); err == nil {
				continue
			}
			err = os.Rename(path, to)
		}
		switch {
		case err == nil:
			return to, syncDir(filepath.Dir(path))
		case errors.Is(err, fs.ErrExist):
		case errors.Is(err, unix.EBUSY), errors.Is(err, unix.EXDEV):
			return "", fmt.Errorf("%s is a mount point and cannot be renamed; move aside what is in it: %w", path, err)
		default:
			return "", &os.LinkError{Op: "rename", Old: path, New: to, Err: err}
		}
	}
	return "", fmt.Errorf("%s has been moved aside too often", path)
}

// Entry is a file or directory in a tree.
type Entry struct {
	Path      string      `json:"path"` // relative to the listed directory, with slashes
	Mode      fs.FileMode `json:"mode"`
	Size      int64       `json:"size"`
	Allocated int64       `json:"allocated"` // bytes on disk
	Modified  time.Time   `json:"modified"`
	Changed   time.Time   `json:"changed"` // ctime: of any change, which no program can set back
	SHA256    string      `json:"sha256,omitempty"`
	Link      string      `json:"link,omitempty"` // of a symbolic link
}

// ListRequest says what to list.
type ListRequest struct {
	Dir string `json:"dir"`
	// Depth limits it: 1 lists the directory's own entries; 0 is no limit.
	Depth int `json:"depth,omitempty"`
	// SHA256 asks for the files' hashes.
	SHA256 bool `json:"sha256,omitempty"`
}

// ListTree lists a directory in lexical order. Files that vanish meanwhile are left out. Progress
// counts hashed bytes.
func (a *Agent) ListTree(ctx context.Context, r ListRequest, onProgress func(Progress)) ([]Entry, error) {
	return call[[]Entry](ctx, a, "list", r, onProgress)
}

func listTree(ctx context.Context, r ListRequest, progress func(done, total int64)) ([]Entry, error) {
	entries := []Entry{}
	var hashed int64
	err := filepath.WalkDir(r.Dir, func(path string, d fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if path == r.Dir {
			return err
		}
		var st fs.FileInfo
		if err == nil {
			st, err = d.Info()
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(r.Dir, path)
		if err != nil {
			return err
		}
		e := Entry{Path: filepath.ToSlash(rel), Mode: st.Mode(), Size: st.Size(), Modified: st.ModTime()}
		if sys, ok := st.Sys().(*syscall.Stat_t); ok {
			e.Allocated = sys.Blocks * 512
			e.Changed = changed(sys)
		}
		switch {
		case st.Mode().IsRegular() && r.SHA256:
			if e.SHA256, err = sha256File(ctx, path); errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			hashed += st.Size()
			if progress != nil {
				progress(hashed, 0)
			}
		case st.Mode().Type() == fs.ModeSymlink:
			e.Link, err = os.Readlink(path)
		}
		if err != nil {
			return err
		}
		entries = append(entries, e)
		if d.IsDir() && r.Depth > 0 && strings.Count(e.Path, "/")+1 >= r.Depth {
			return fs.SkipDir
		}
		return nil
	})
	return entries, err
}

// TailRequest says which lines of a file are wanted.
type TailRequest struct {
	Path string `json:"path"`
	// Lines is how many, from the end; 0 is 30.
	Lines int `json:"lines,omitempty"`
	// Grep, a regular expression, chooses the lines that count.
	Grep string `json:"grep,omitempty"`
	// From is the offset before which nothing is read; a file shorter than that has been begun anew
	// and is read from its start.
	From int64 `json:"from,omitempty"`
}

// NoFrames, as a TailRequest's Grep, leaves the frames of stack traces out: a dozen of them would push the
// exception itself out of a log's last lines.
const NoFrames = `^\S`

// Tail is the end of a text file.
type Tail struct {
	Path     string    `json:"path"`
	Lines    []string  `json:"lines"`
	Size     int64     `json:"size"`
	Modified time.Time `json:"modified"`
}

// maxTail is how far back from its end a file is searched.
const maxTail = 64 << 20

// TailFile returns the last lines of a file, at most from its last 64 MiB.
func (a *Agent) TailFile(ctx context.Context, r TailRequest) (Tail, error) {
	return call[Tail](ctx, a, "tail", r, nil)
}

func tailFile(r TailRequest) (Tail, error) {
	t := Tail{Path: r.Path, Lines: []string{}}
	if r.Lines <= 0 {
		r.Lines = 30
	}
	grep, err := regexp.Compile(r.Grep)
	if err != nil {
		return t, err
	}
	f, err := os.Open(r.Path)
	if err != nil {
		return t, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return t, err
	}
	t.Size, t.Modified = st.Size(), st.ModTime()
	from := r.From
	if from > t.Size {
		from = 0
	}
	from = max(from, t.Size-maxTail)

	const block = 64 << 10
	var rest []byte // begins within a line that is not whole yet
	for end := t.Size; ; {
		begin := max(from, end-block)
		chunk := make([]byte, end-begin, int(end-begin)+len(rest))
		if _, err := f.ReadAt(chunk, begin); err != nil && err != io.EOF {
			return t, err
		}
		rest = append(chunk, rest...)
		end = begin
		for len(rest) > 0 {
			body := bytes.TrimSuffix(rest, []byte("\n"))
			i := bytes.LastIndexByte(body, '\n')
			if i < 0 && end > from {
				break
			}
			line := strings.TrimSuffix(string(body[i+1:]), "\r")
			rest = rest[:i+1]
			if grep.MatchString(line) {
				t.Lines = append(t.Lines, line)
			}
			if len(t.Lines) == r.Lines {
				break
			}
		}
		if end <= from || len(t.Lines) == r.Lines {
			break
		}
	}
	for i, j := 0, len(t.Lines)-1; i < j; i, j = i+1, j-1 {
		t.Lines[i], t.Lines[j] = t.Lines[j], t.Lines[i]
	}
	return t, nil
}
