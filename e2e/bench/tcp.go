package main

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
)

// copyOverTCP copies a folder over one TCP connection with what the kernel has for it, sendfile and splice:
// no encryption, no checksums, holes as zeros. It is the measure of what the machine can do.
func copyOverTCP(ctx context.Context, from, to string) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer l.Close()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	received := make(chan error, 1)
	go func() {
		received <- func() error {
			c, err := l.Accept()
			if err != nil {
				return err
			}
			defer c.Close()
			defer context.AfterFunc(ctx, func() { c.Close() })()
			for {
				if err := receiveFile(c, to); errors.Is(err, io.EOF) {
					return nil
				} else if err != nil {
					return err
				}
			}
		}()
	}()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return err
	}
	err = filepath.WalkDir(from, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(from, name)
		if err != nil {
			return err
		}
		return sendFile(c, name, rel)
	})
	return errors.Join(err, c.Close(), <-received)
}

// sendFile sends the length of a name 2, the name, the length of the file 8, and the file.
func sendFile(c net.Conn, file, name string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	head := binary.BigEndian.AppendUint16(nil, uint16(len(name)))
	head = append(head, name...)
	head = binary.BigEndian.AppendUint64(head, uint64(info.Size()))
	if _, err := c.Write(head); err != nil {
		return err
	}
	_, err = io.Copy(c, f)
	return err
}

func receiveFile(c net.Conn, root string) error {
	var length [2]byte
	if _, err := io.ReadFull(c, length[:]); err != nil {
		return err
	}
	head := make([]byte, int(binary.BigEndian.Uint16(length[:]))+8)
	if _, err := io.ReadFull(c, head); err != nil {
		return err
	}
	name, size := string(head[:len(head)-8]), binary.BigEndian.Uint64(head[len(head)-8:])
	file := filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	if _, err := io.CopyN(f, c, int64(size)); err != nil {
		return errors.Join(err, f.Close())
	}
	return f.Close()
}
