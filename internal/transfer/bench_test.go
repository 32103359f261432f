package transfer_test

import (
	"cmp"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"mqlift/internal/link"
	"mqlift/internal/store"
	"mqlift/internal/transfer"
)

const benchFile = 64 << 20

// benchStore makes a commit log of files that are full, or of which every second MiB is a hole.
func benchStore(b *testing.B, files int, sparse bool) (root string, end, data int64) {
	b.Helper()
	root = b.TempDir()
	chunk := make([]byte, 1<<20)
	rand.Read(chunk)
	for i := range files {
		path := filepath.Join(root, "commitlog", store.FileName(int64(i)*benchFile))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			b.Fatal(err)
		}
		f, err := os.Create(path)
		if err != nil {
			b.Fatal(err)
		}
		if err := f.Truncate(benchFile); err != nil {
			b.Fatal(err)
		}
		for at := int64(0); at < benchFile; at += int64(len(chunk)) {
			if sparse && at/int64(len(chunk))%2 == 1 {
				continue
			}
			if _, err := f.WriteAt(chunk, at); err != nil {
				b.Fatal(err)
			}
			data += int64(len(chunk))
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			b.Fatal(err)
		}
	}
	return root, int64(files) * benchFile, data
}

// tcpCopy sends whole files over one connection inside the kernel and brings each to disk: what nothing that
// copies files can be much faster than.
func tcpCopy(ctx context.Context, from, to string, sync bool) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer l.Close()
	names, err := filepath.Glob(filepath.Join(from, "commitlog", "*"))
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(to, "commitlog"), 0o755); err != nil {
		return err
	}
	var both errgroup.Group
	both.Go(func() error {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		defer c.Close()
		for _, name := range names {
			f, err := os.Create(filepath.Join(to, "commitlog", filepath.Base(name)))
			if err != nil {
				return err
			}
			if _, err := io.CopyN(f, c, benchFile); err != nil {
				return err
			}
			if sync {
				err = f.Sync()
			}
			if err := errors.Join(err, f.Close()); err != nil {
				return err
			}
		}
		return nil
	})
	both.Go(func() error {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			return err
		}
		defer c.Close()
		for _, name := range names {
			f, err := os.Open(name)
			if err != nil {
				return err
			}
			_, err = io.Copy(c, f)
			if err := errors.Join(err, f.Close()); err != nil {
				return err
			}
		}
		return nil
	})
	return both.Wait()
}

// streamCopy packs and unpacks over a connection that connect makes.
func streamCopy(ctx context.Context, from, to string, end int64, source *link.Sender, target io.Reader) error {
	var both errgroup.Group
	both.Go(func() error {
		_, err := transfer.Pack(ctx, source, transfer.Spec{Root: from, Logs: []transfer.LogRange{{Dir: "commitlog", FileSize: benchFile, To: end}}})
		return errors.Join(err, source.Close(ctx))
	})
	both.Go(func() error {
		_, err := transfer.Unpack(ctx, target, to, transfer.Options{})
		return err
	})
	return both.Wait()
}

func linkCopy(ctx context.Context, from, to string, end int64, mode link.Mode) error {
	a, err := link.NewIdentity()
	if err != nil {
		return err
	}
	b, err := link.NewIdentity()
	if err != nil {
		return err
	}
	l, err := link.Listen(ctx, 0, b, time.Second)
	if err != nil {
		return err
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	var target *link.Receiver
	var accepting errgroup.Group
	accepting.Go(func() (err error) {
		target, err = l.Accept(ctx, a.Pin(), mode)
		return err
	})
	source, err := link.Connect(ctx, "127.0.0.1:"+port, a, b.Pin(), mode, link.Streams())
	if err := errors.Join(err, accepting.Wait()); err != nil {
		return err
	}
	defer target.Close()
	return streamCopy(ctx, from, to, end, source, target)
}

// BenchmarkWays copies the same files in turn in each way, from the page cache, and tells how fast each was:
// MB/s of data, as a share of the bare TCP copy of the same run, and the time of a CPU that both ends took.
// MQLIFT_BENCH_MIB sets the size (256).
func BenchmarkWays(b *testing.B) {
	mib, err := strconv.Atoi(cmp.Or(os.Getenv("MQLIFT_BENCH_MIB"), "256"))
	if err != nil {
		b.Fatal(err)
	}
	files := max(mib/(benchFile>>20), 1)
	for _, sparse := range []bool{false, true} {
		name := "dense"
		if sparse {
			name = "sparse"
		}
		b.Run(name, func(b *testing.B) {
			from, end, data := benchStore(b, files, sparse)
			ways := []struct {
				name string
				copy func(ctx context.Context, to string) error
			}{
				{"tcp", func(ctx context.Context, to string) error { return tcpCopy(ctx, from, to, false) }},
				{"tcp+sync", func(ctx context.Context, to string) error { return tcpCopy(ctx, from, to, true) }},
				{"encrypted", func(ctx context.Context, to string) error { return linkCopy(ctx, from, to, end, link.Encrypted) }},
				{"plain", func(ctx context.Context, to string) error { return linkCopy(ctx, from, to, end, link.Plain) }},
			}
			took := make([]time.Duration, len(ways))
			cpu := make([]time.Duration, len(ways))
			for b.Loop() {
				for i, way := range ways {
					to := b.TempDir()
					began, busy := time.Now(), cpuTime()
					if err := way.copy(b.Context(), to); err != nil {
						b.Fatal(err)
					}
					took[i] += time.Since(began)
					cpu[i] += cpuTime() - busy
					if err := os.RemoveAll(to); err != nil {
						b.Fatal(err)
					}
				}
			}
			b.ReportMetric(0, "ns/op")
			for i, way := range ways {
				b.ReportMetric(float64(data)*float64(b.N)/took[i].Seconds()/1e6, "MB/s-"+way.name)
				b.ReportMetric(took[0].Seconds()/took[i].Seconds(), "of-tcp-"+way.name)
				b.ReportMetric(cpu[i].Seconds()*1e3/(float64(data)*float64(b.N)/1e9), "cpu-ms/GB-"+way.name)
			}
		})
	}
}

// BenchmarkCodes tells what there is to choose from against changes on the way, in the pieces that data
// comes in: as fast as the best of all pieces, since a busy machine makes most of them slow.
func BenchmarkCodes(b *testing.B) {
	data := make([]byte, 256<<10)
	rand.Read(data)
	block, err := aes.NewCipher(data[:32])
	if err != nil {
		b.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		b.Fatal(err)
	}
	castagnoli, nonce, out := crc32.MakeTable(crc32.Castagnoli), make([]byte, 12), make([]byte, 0, len(data)+16)
	keyed := hmac.New(sha256.New, data[:32])
	for name, code := range map[string]func(){
		"crc32c":      func() { crc32.Checksum(data, castagnoli) },
		"sha256":      func() { sha256.Sum256(data) },
		"hmac-sha256": func() { keyed.Reset(); keyed.Write(data); keyed.Sum(out[:0]) },
		"gmac":        func() { gcm.Seal(out, nonce, nil, data) },
		"aes-gcm":     func() { gcm.Seal(out, nonce, data, nil) },
	} {
		b.Run(name, func(b *testing.B) {
			best := time.Hour
			for b.Loop() {
				began := time.Now()
				code()
				best = min(best, time.Since(began))
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(float64(len(data))/best.Seconds()/1e9, "GB/s")
		})
	}
}

// cpuTime is what this process has used so far, in user and kernel mode.
func cpuTime() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		panic(fmt.Sprintf("getrusage: %v", err))
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
