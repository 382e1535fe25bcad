//go:build linux

package main

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// image is a container image in a directory (containers-transports(5), dir:). Static
// once read.
type image struct {
	dir     string
	version string // what it was told to be
	config  config
	layers  []string // files, lowest first
	packed  int64    // bytes of the layers as they are transferred
	entries []entry  // all files of all layers, in order
	rootfs  string   // where it is unpacked
}

// config is the image's configuration: docker's, which is OCI's with a health check.
type config struct {
	Config struct {
		User, StopSignal      string
		Env, Entrypoint, Cmd  []string
		ExposedPorts, Volumes map[string]struct{}
		Labels                map[string]string
		WorkingDir            string
		Healthcheck           struct{ Test []string }
	} `json:"config"`
	OS string `json:"os"`
}

// entry is one file or directory of an image.
type entry struct {
	name     string // absolute
	mode     os.FileMode
	uid, gid int
	size     int64
}

func readImage(dir string) (*image, error) {
	im := &image{dir: dir}
	var manifest struct {
		Config struct{ Digest string }
		Layers []struct {
			Digest string
			Size   int64
		}
	}
	if err := readJSON(filepath.Join(dir, "manifest.json"), &manifest); err != nil {
		return nil, err
	}
	blob := func(digest string) string { return filepath.Join(dir, strings.TrimPrefix(digest, "sha256:")) }
	if err := readJSON(blob(manifest.Config.Digest), &im.config); err != nil {
		return nil, err
	}
	for _, l := range manifest.Layers {
		im.layers = append(im.layers, blob(l.Digest))
		im.packed += l.Size
	}
	return im, nil
}

func readJSON(file string, v any) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, v)
}

// unpack lays the image's files out below dir, as their owners', and lists them.
func (im *image) unpack(dir string) error {
	im.rootfs = dir
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, layer := range im.layers {
		if err := im.unpackLayer(root, layer); err != nil {
			return fmt.Errorf("layer %s: %w", filepath.Base(layer), err)
		}
	}
	return nil
}

func (im *image) unpackLayer(root *os.Root, layer string) error {
	f, err := os.Open(layer)
	if err != nil {
		return err
	}
	defer f.Close()
	in := bufio.NewReader(f)
	var r io.Reader = in
	if magic, _ := in.Peek(2); string(magic) == "\x1f\x8b" {
		if r, err = gzip.NewReader(in); err != nil {
			return err
		}
	}
	for t := tar.NewReader(r); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		name := strings.Trim(filepath.Clean(h.Name), "/")
		switch h.Typeflag {
		case tar.TypeDir:
			if err := root.MkdirAll(name, 0o755); err != nil {
				return err
			}
		case tar.TypeReg:
			w, err := root.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
			if err != nil {
				return err
			}
			_, err = io.Copy(w, t)
			if err := errors.Join(err, w.Close()); err != nil {
				return err
			}
		default:
			return fmt.Errorf("%s is neither a file nor a directory: none else belongs into this image", h.Name)
		}
		mode := h.FileInfo().Mode()
		if err := errors.Join(root.Lchown(name, h.Uid, h.Gid), root.Chmod(name, mode)); err != nil {
			return err
		}
		im.entries = append(im.entries, entry{"/" + name, mode, h.Uid, h.Gid, h.Size})
	}
}

// unpacked is how large the files are, bytes.
func (im *image) unpacked() int64 {
	var n int64
	for _, e := range im.entries {
		n += e.size
	}
	return n
}
