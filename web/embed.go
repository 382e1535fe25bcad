// Package web holds the status page as it is served: what Vite makes of src, built
// in. Without Node.js nothing is missing: the built files are part of the repository,
// and `make page-check` fails where they differ from a fresh build.
//
// The page asks nobody but the gateway it came from, which its Content-Security-Policy
// enforces.
package web

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"slices"
	"strings"
	"time"
)

//go:embed dist
var dist embed.FS

// policy lets the page load its own files and talk to its own origin, and nothing
// else: not run what stands in the page, not be framed, not send a form away.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// file is one of the page's, ready to be sent.
type file struct {
	body  []byte
	mime  string
	etag  string
	cache string
}

// files are the page's by path. Static after init.
var files = load()

func load() map[string]file {
	out := make(map[string]file)
	err := fs.WalkDir(dist, "dist", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		body, err := dist.ReadFile(name)
		if err != nil {
			return err
		}
		sum := sha256.Sum256(body)
		f := file{body: body, mime: mime.TypeByExtension(path.Ext(name)), etag: `"` + hex.EncodeToString(sum[:12]) + `"`, cache: "no-cache"}
		switch path.Ext(name) { // the system's table may say otherwise
		case ".js":
			f.mime = "text/javascript; charset=utf-8"
		case ".css":
			f.mime = "text/css; charset=utf-8"
		case ".html":
			f.mime = "text/html; charset=utf-8"
		case ".svg":
			f.mime = "image/svg+xml"
		case ".txt":
			f.mime = "text/plain; charset=utf-8"
		}
		at := strings.TrimPrefix(name, "dist")
		if strings.HasPrefix(at, "/assets/") { // their names have a hash of their contents
			f.cache = "public, max-age=31536000, immutable"
		}
		out[strings.TrimSuffix(at, "index.html")] = f
		return nil
	})
	if err != nil {
		panic("web: the page built in can't be read: " + err.Error())
	}
	return out
}

// Paths are the paths there is a file for, sorted; "/" is the page.
func Paths() []string {
	paths := make([]string, 0, len(files))
	for p := range files {
		paths = append(paths, p)
	}
	slices.Sort(paths)
	return paths
}

// Handler serves the page to GET and HEAD at Paths, and 404 elsewhere.
func Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f, ok := files[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		h := w.Header()
		h.Set("Content-Type", f.mime)
		h.Set("ETag", f.etag)
		h.Set("Cache-Control", f.cache)
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(f.body))
	})
}
