package remote

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/pkg/sftp"
)

const (
	maxReadFile = 64 << 20
	maxLinks    = 40 // as Linux follows
	inFlight    = 64 // SFTP packets of 32 KiB: as much as the SSH window of 2 MiB takes
)

// Where sshd's packages put the SFTP server: Debian, Red Hat, SUSE and Arch and Alpine, BSD.
var sftpServers = [...]string{
	"/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server", "/usr/lib/ssh/sftp-server",
	"/usr/libexec/sftp-server", "/usr/lib/sftp-server",
}

// ReadFile reads a whole file of at most 64 MiB. A missing one is fs.ErrNotExist.
func (h *Host) ReadFile(ctx context.Context, file string) ([]byte, error) {
	var data []byte
	err := h.withSFTP(ctx, "read "+file, func(s *sftpSession) error {
		f, err := s.Open(file)
		if err != nil {
			return err
		}
		defer f.Close()
		var b limited
		if _, err := f.WriteTo(&b); err != nil {
			return err
		}
		data = b.Bytes()
		return nil
	})
	if err != nil {
		return nil, err // data may still be written to
	}
	return data, nil
}

// limited collects up to maxReadFile bytes.
type limited struct{ bytes.Buffer }

func (l *limited) Write(b []byte) (int, error) {
	if l.Len()+len(b) > maxReadFile {
		return 0, fmt.Errorf("larger than %d MiB", maxReadFile>>20)
	}
	return l.Buffer.Write(b)
}

// WriteFile replaces a file as a whole, or creates it with perm. Readers see the old content or
// the new, never a part: it is written beside the file under a temporary name (.NAME.mqlift-…,
// mode 0600 until complete), flushed to disk where the host's SFTP server can (fsync@openssh.com),
// and renamed over it. An existing file's mode and owner are kept, and if it is a link, what it
// points to is replaced. On failure the temporary file is removed, unless the connection is gone.
func (h *Host) WriteFile(ctx context.Context, file string, data []byte, perm fs.FileMode) error {
	return h.replace(ctx, "write "+file, file, bytes.NewReader(data), perm, true)
}

// Upload is WriteFile for content of any size, and with perm applied also to an existing file,
// whose owner it does not keep. When ctx ends, a Read of r that is under way is not interrupted.
func (h *Host) Upload(ctx context.Context, file string, r io.Reader, perm fs.FileMode) error {
	return h.replace(ctx, "upload "+file, file, r, perm, false)
}

func (h *Host) replace(ctx context.Context, doing, file string, r io.Reader, perm fs.FileMode, keep bool) error {
	return h.withSFTP(ctx, doing, func(s *sftpSession) error {
		return s.full(path.Dir(file), s.replace(ctx, file, r, perm, keep))
	})
}

func (s *sftpSession) replace(ctx context.Context, file string, r io.Reader, perm fs.FileMode, keep bool) (err error) {
	file, old, err := s.follow(file)
	if err != nil {
		return err
	}
	if old != nil && !old.Mode().IsRegular() {
		return errors.New("is not a regular file")
	}
	temp := path.Join(path.Dir(file), "."+path.Base(file)+".mqlift-"+rand.Text()[:8])
	f, err := s.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL)
	if err != nil {
		return fmt.Errorf("create %s: %w", temp, err)
	}
	defer func() {
		f.Close()
		if err == nil {
			return
		}
		if rm := s.Remove(temp); rm != nil && !errors.Is(rm, fs.ErrNotExist) {
			err = fmt.Errorf("%w (and %s may be left behind)", err, temp)
		}
	}()
	if err := f.Chmod(0o600); err != nil { // SFTP of this version cannot create it so
		return fmt.Errorf("chmod %s: %w", temp, err)
	}
	in := &source{from: untilDone{ctx, r}}
	n, err := f.ReadFromWithConcurrency(in, inFlight)
	switch {
	case in.err != nil:
		return localError{in.err}
	case err != nil:
		return fmt.Errorf("write %s: %w", temp, err)
	}
	written, err := f.Stat()
	if err != nil {
		return fmt.Errorf("stat %s: %w", temp, err)
	}
	if written.Size() != n {
		return fmt.Errorf("%s has %d bytes after writing %d", temp, written.Size(), n)
	}
	if keep && old != nil {
		perm = old.Mode()
		was, ok := old.Sys().(*sftp.FileStat)
		is, ok2 := written.Sys().(*sftp.FileStat)
		if ok && ok2 && (was.UID != is.UID || was.GID != is.GID) {
			// Before chmod, because chown takes setuid and setgid away.
			if err := f.Chown(int(was.UID), int(was.GID)); err != nil {
				return fmt.Errorf("keep its owner %d:%d: %w", was.UID, was.GID, err)
			}
		}
	}
	if err := f.Chmod(perm); err != nil {
		return fmt.Errorf("set its mode %v: %w", perm, err)
	}
	_, canSync := s.HasExtension("fsync@openssh.com")
	if canSync {
		if err := f.Sync(); err != nil {
			return fmt.Errorf("flush %s: %w", temp, err)
		}
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("close %s: %w", temp, err)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := s.rename(temp, file); err != nil {
		return fmt.Errorf("rename %s to it: %w", temp, err)
	}
	if canSync {
		s.syncDir(path.Dir(file))
	}
	return nil
}

// follow resolves file while it is a link, and tells what is there now (nil: nothing).
func (s *sftpSession) follow(file string) (string, fs.FileInfo, error) {
	for range maxLinks {
		info, err := s.Lstat(file)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return file, nil, nil
		case err != nil:
			return "", nil, fmt.Errorf("stat %s: %w", file, err)
		case info.Mode()&fs.ModeSymlink == 0:
			return file, info, nil
		}
		to, err := s.ReadLink(file)
		if err != nil {
			return "", nil, fmt.Errorf("read the link %s: %w", file, err)
		}
		if !path.IsAbs(to) {
			to = path.Dir(file) + "/" + to // not Join: x/.. is not . where x is a link
		}
		file = to
	}
	return "", nil, errors.New("too many links")
}

func (s *sftpSession) rename(from, to string) error {
	if _, ok := s.HasExtension("posix-rename@openssh.com"); ok {
		return s.PosixRename(from, to)
	}
	// Without it a rename over an existing file fails, which is better than a moment without one.
	return s.Rename(from, to)
}

// syncDir makes the rename last through a power failure. OpenSSH's server opens directories like
// files (measured with 9.2); with one that does not, the file system has to see to it.
func (s *sftpSession) syncDir(dir string) {
	if d, err := s.Open(dir); err == nil {
		d.Sync()
		d.Close()
	}
}

// untilDone ends reading when ctx ends.
type untilDone struct {
	ctx context.Context
	r   io.Reader
}

func (u untilDone) Read(b []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.r.Read(b)
}

// Stat tells about a file, following links. A missing one is fs.ErrNotExist; Sys is *sftp.FileStat,
// with owner and group.
func (h *Host) Stat(ctx context.Context, file string) (fs.FileInfo, error) {
	var info fs.FileInfo
	err := h.withSFTP(ctx, "stat "+file, func(s *sftpSession) (err error) {
		info, err = s.Stat(file)
		return err
	})
	if err != nil {
		return nil, err
	}
	return info, nil
}

// ReadDir lists a directory by name, links not followed.
func (h *Host) ReadDir(ctx context.Context, dir string) ([]fs.FileInfo, error) {
	var list []fs.FileInfo
	err := h.withSFTP(ctx, "list "+dir, func(s *sftpSession) (err error) {
		list, err = s.ReadDirContext(ctx, dir)
		return err
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(list, func(a, b fs.FileInfo) int { return cmp.Compare(a.Name(), b.Name()) })
	return list, nil
}

// MkdirAll creates a directory and those above it that are missing, each with exactly perm. What
// exists keeps its mode.
func (h *Host) MkdirAll(ctx context.Context, dir string, perm fs.FileMode) error {
	return h.withSFTP(ctx, "create the directory "+dir, func(s *sftpSession) error {
		var missing []string
		for d := path.Clean(dir); ; d = path.Dir(d) {
			info, err := s.Stat(d)
			if err == nil && !info.IsDir() {
				return fmt.Errorf("%s is not a directory", d)
			}
			if err == nil || d == path.Dir(d) {
				break
			}
			if !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("stat %s: %w", d, err)
			}
			missing = append(missing, d)
		}
		for _, d := range slices.Backward(missing) {
			if err := s.Mkdir(d); err != nil {
				// Somebody else may have been faster.
				if info, serr := s.Stat(d); serr == nil && info.IsDir() {
					continue
				}
				return fmt.Errorf("mkdir %s: %w", d, s.full(path.Dir(d), err))
			}
			if err := s.Chmod(d, perm); err != nil {
				return fmt.Errorf("chmod %s: %w", d, err)
			}
		}
		return nil
	})
}

// full adds to a failure that the file system is full, where the server can tell (statvfs@openssh.com): SFTP
// has one code for that and all else that has none of its own, SSH_FX_FAILURE.
func (s *sftpSession) full(dir string, err error) error {
	var status *sftp.StatusError
	if !errors.As(err, &status) || status.FxCode() != sftp.ErrSSHFxFailure {
		return err
	}
	const fewBlocks = 16 // a folder or a small file may take more than one
	st, verr := s.StatVFS(dir)
	if verr == nil && (st.Bavail < fewBlocks || st.Files > 0 && st.Favail == 0) {
		return fmt.Errorf("%w: %w", err, syscall.ENOSPC)
	}
	return err
}

// Rename moves a file or directory within a file system, over an existing file if there is one.
func (h *Host) Rename(ctx context.Context, from, to string) error {
	return h.withSFTP(ctx, "rename "+from+" to "+to, func(s *sftpSession) error { return s.rename(from, to) })
}

// Remove removes a file or an empty directory. A missing one is fs.ErrNotExist.
func (h *Host) Remove(ctx context.Context, file string) error {
	return h.withSFTP(ctx, "remove "+file, func(s *sftpSession) error { return s.Remove(file) })
}

// sftpSession is one SFTP server running on the host. It serves one operation at a time, so that
// giving an operation up ends nothing else.
type sftpSession struct {
	*sftp.Client // nil until started
	sess         *session
}

// start starts the SFTP server and greets it. What goes wrong is an *SFTPError unless the
// connection is lost.
func (s *sftpSession) start(h *Host) error {
	var out, errs io.Reader
	in, err := s.sess.StdinPipe()
	if err == nil {
		out, err = s.sess.StdoutPipe()
	}
	if err == nil {
		errs, err = s.sess.StderrPipe()
	}
	if err != nil {
		return err
	}
	stderr, heard := &tail{most: keptStderr}, make(chan struct{})
	do := "let sshd_config on the host have a line such as `Subsystem sftp internal-sftp`"
	if h.sudo {
		do = "install OpenSSH's sftp-server on the host, and allow it in sudoers without a password (NOPASSWD) and without a terminal"
		err = s.sess.Start(sudoSFTP())
	} else {
		err = s.sess.RequestSubsystem("sftp")
	}
	if err == nil {
		go func() {
			defer close(heard)
			io.Copy(stderr, errs)
		}()
		if s.Client, err = sftp.NewClientPipe(out, in); err == nil {
			go func() {
				s.Client.Wait()
				h.forget(s)
			}()
			return nil
		}
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = errors.New("it ended at once")
		} else { // what it said is no SFTP
			do += "; its login shell must print nothing"
		}
	} else {
		close(heard)
		if !errors.Is(err, io.EOF) { // x/crypto's text repeats the whole command
			err = errors.New("the host refuses")
		}
	}
	s.sess.Close()
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-h.done:
		return err
	case <-timer.C:
	case <-heard:
		select { // the end of the connection ends standard error too
		case <-h.done:
			return err
		case <-timer.C:
		}
	}
	return &SFTPError{Place: h.at, Sudo: h.sudo, Stderr: stderr.text(Cmd{}), Do: do, Err: err}
}

// sudoSFTP is the command that starts the SFTP server as root. Subsystems run as the user only.
func sudoSFTP() string {
	script := "for s in " + strings.Join(sftpServers[:], " ") + `; do [ -x "$s" ] && exec sudo -n -- "$s"; done; ` +
		`echo "no sftp-server at any of the usual paths" >&2; exit 127`
	return "exec " + shellQuote("sh", "-c", script)
}

// withSFTP runs f with an SFTP session: the idle one, or a new one. When ctx ends, f gets a moment
// to clean up after itself, and then the session is ended under it.
func (h *Host) withSFTP(ctx context.Context, doing string, f func(*sftpSession) error) error {
	s, err := h.takeSFTP(ctx, doing)
	if err != nil {
		return err
	}
	finished := make(chan error, 1)
	go func() {
		var err error
		if s.Client == nil {
			err = s.start(h)
		}
		if err == nil {
			err = f(s)
		}
		if s.Client == nil || lostSession(err) || ctx.Err() != nil {
			s.sess.release()
		} else {
			h.giveBack(s)
		}
		finished <- err
	}()
	select {
	case err = <-finished:
	case <-h.done:
		return h.gone(doing)
	case <-ctx.Done():
		timer := time.NewTimer(grace)
		defer timer.Stop()
		select {
		case err := <-finished:
			if err == nil {
				return nil // just in time
			}
		case <-timer.C:
			go s.sess.kill()
		}
		return fmt.Errorf("%s: %s: %w", h, doing, ended(ctx))
	}
	failed := (*SFTPError)(nil)
	local := localError{}
	switch {
	case err == nil:
		return nil
	case h.isDone():
		return h.gone(doing)
	case errors.As(err, &failed):
		return err
	case errors.As(err, &local):
		return fmt.Errorf("%s: %s: %w", h, doing, local.error)
	case lostSession(err):
		return h.interrupted(doing, err)
	}
	return fmt.Errorf("%s: %s: %w", h, doing, err)
}

func lostSession(err error) bool {
	return errors.Is(err, sftp.ErrSSHFxConnectionLost) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

func (h *Host) takeSFTP(ctx context.Context, doing string) (*sftpSession, error) {
	if err := h.slot(ctx, doing); err != nil {
		return nil, err
	}
	h.mu.Lock()
	s := h.idle
	h.idle = nil
	h.mu.Unlock()
	if s != nil {
		return s, nil
	}
	sess, err := h.open(ctx, doing)
	if err != nil {
		return nil, err
	}
	return &sftpSession{sess: sess}, nil
}

// giveBack keeps the session for the next operation, unless one is kept already. An idle session
// takes no slot.
func (h *Host) giveBack(s *sftpSession) {
	h.mu.Lock()
	keep := h.idle == nil
	if keep {
		h.idle = s
	}
	h.mu.Unlock()
	if keep {
		h.leave()
	} else {
		s.sess.release()
	}
}

// dropIdle ends the idle session, if there is one, to make room on the host.
func (h *Host) dropIdle() {
	h.mu.Lock()
	s := h.idle
	h.idle = nil
	h.mu.Unlock()
	if s != nil {
		s.sess.Close() // not release: it has no slot
	}
}

// forget drops a session that ended by itself, lest the next operation gets it.
func (h *Host) forget(s *sftpSession) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.idle == s {
		h.idle = nil
	}
}
