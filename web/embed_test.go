package web

import (
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func get(path, etag string) *http.Response {
	r := httptest.NewRequest(http.MethodGet, path, nil)
	if etag != "" {
		r.Header.Set("If-None-Match", etag)
	}
	w := httptest.NewRecorder()
	Handler().ServeHTTP(w, r)
	return w.Result()
}

// What the page names is there, and it names nothing of another host. Its scripts and
// styles stand in files, which is all that its policy lets run.
func TestPageIsWhole(t *testing.T) {
	page := string(files["/"].body)
	named := regexp.MustCompile(`(?:src|href)="([^"]*)"`).FindAllStringSubmatch(page, -1)
	if len(named) < 5 {
		t.Fatalf("only %v is named: this test would check nothing", named)
	}
	for _, m := range named {
		if at := m[1]; strings.HasPrefix(at, "/assets/") || strings.HasSuffix(at, ".svg") || strings.HasSuffix(at, ".txt") {
			if !slices.Contains(Paths(), at) {
				t.Errorf("%s is not there", at)
			}
		} else if !strings.HasPrefix(at, "/") || strings.HasPrefix(at, "//") {
			t.Errorf("%s is elsewhere", at)
		}
	}
	if m := regexp.MustCompile(`<script[^>]*>[^<]|<style| style=| on[a-z]+="`).FindString(page); m != "" {
		t.Errorf("%q is in the page itself", m)
	}
	css := regexp.MustCompile(`/assets/[^"]*\.css`).FindString(page)
	if m := regexp.MustCompile(`@import|url\([^)]*\)`).FindString(string(files[css].body)); m != "" {
		t.Errorf("the style sheet loads %s", m)
	}
}

// The licence of what is bundled goes with it.
func TestLicences(t *testing.T) {
	text := string(files["/licences.txt"].body)
	for _, want := range []string{"uPlot", "Leon Sorokin", "Permission is hereby granted", "The above copyright notice"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing", want)
		}
	}
}

func TestHeaders(t *testing.T) {
	for _, path := range Paths() {
		resp := get(path, "")
		h := resp.Header
		if resp.StatusCode != 200 || h.Get("Content-Type") == "" || h.Get("X-Content-Type-Options") != "nosniff" || !strings.HasPrefix(h.Get("Content-Security-Policy"), "default-src 'none'; script-src 'self';") {
			t.Errorf("%s: %d %v", path, resp.StatusCode, h)
		}
		want := "no-cache"
		if strings.HasPrefix(path, "/assets/") {
			want = "public, max-age=31536000, immutable"
		}
		if got := h.Get("Cache-Control"); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
		if again := get(path, h.Get("ETag")); again.StatusCode != http.StatusNotModified {
			t.Errorf("%s: %d for what is known", path, again.StatusCode)
		}
	}
	for _, path := range []string{"/index.html", "/assets/", "/dist/index.html", "/embed.go"} {
		if resp := get(path, ""); resp.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %d", path, resp.StatusCode)
		}
	}
}
