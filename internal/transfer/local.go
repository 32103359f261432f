package transfer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// CopyLocal makes trees below dstRoot mirror those below srcRoot on the same host: sparse, with
// mtimes and modes kept, shared by reflink where the file system can (a writer's later changes stay
// its own), never by hard link. As with Unpack nothing appears under its name before it is complete,
// and what the source does not have goes to o.Quarantine.
func CopyLocal(ctx context.Context, srcRoot, dstRoot string, o Options, paths ...string) (Stats, error) {
	start := time.Now()
	c := localCopy{ctx: ctx, from: srcRoot, place: newPlacement(dstRoot, o), buf: make([]byte, maxData)}
	err := withSpace(c.all(paths), dstRoot, 0)
	err = errors.Join(err, c.place.cleanUp())
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return c.stats, fmt.Errorf("copy from %s to %s: %w", srcRoot, dstRoot, err)
	}
	c.stats.Took = time.Since(start)
	return c.stats, nil
}

type localCopy struct {
	ctx   context.Context
	from  string
	place *placement
	buf   []byte
	stats Stats
}

func (c *localCopy) all(paths []string) error {
	for _, path := range paths {
		if err := c.place.tree(path); err != nil {
			return err
		}
		top := filepath.Join(c.from, path)
		if resolved, err := filepath.EvalSymlinks(top); err == nil {
			top = resolved
		}
		err := filepath.WalkDir(top, func(full string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // missing, or deleted meanwhile
			}
			if err != nil {
				return err
			}
			if err := c.ctx.Err(); err != nil {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			rel, err := filepath.Rel(top, full)
			if err != nil {
				return err
			}
			e := entry{Path: filepath.Join(path, rel), Size: info.Size(), Mode: info.Mode().Perm(), Modified: info.ModTime()}
			switch {
			case d.IsDir():
				return c.place.dir(e)
			case !info.Mode().IsRegular():
				return fmt.Errorf("%s is neither a file nor a folder (%s)", full, info.Mode().Type())
			}
			return c.file(full, e)
		})
		if err != nil {
			return err
		}
	}
	var err error
	c.stats.MovedAway, err = c.place.commit(c.ctx)
	return err
}

func (c *localCopy) file(full string, e entry) error {
	src, err := os.Open(full)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := c.place.file(e)
	if err != nil {
		return err
	}
	defer dst.Close()
	c.stats.Files++
	c.stats.Apparent += e.Size
	if clone(dst, src) == nil {
		c.stats.Replicated += e.Size
		return dst.Truncate(e.Size) // the source may have grown meanwhile
	}
	for pos := int64(0); pos < e.Size; {
		data, hole, err := extent(src, pos, e.Size)
		if err != nil {
			return err
		}
		if err := c.copyRange(dst, src, data, hole); err != nil {
			return fmt.Errorf("%s: %w", full, err)
		}
		pos = hole
	}
	return dst.Close()
}

// copyRange copies inside the kernel where it can, and otherwise through a buffer.
func (c *localCopy) copyRange(dst, src *os.File, from, to int64) error {
	for from < to {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		n, err := copyInKernel(dst, src, from, int(min(to-from, 64<<20)))
		if err == nil && n == 0 {
			return ErrChanged
		}
		if err != nil {
			return eachData(c.ctx, src, from, to, c.buf, func(at int64, b []byte) error {
				_, err := dst.WriteAt(b, at)
				c.done(len(b))
				return err
			})
		}
		from += int64(n)
		c.done(n)
	}
	return nil
}

func (c *localCopy) done(n int) {
	c.stats.Bytes += int64(n)
	if c.place.Progress != nil {
		c.place.Progress(c.stats.Bytes)
	}
}
