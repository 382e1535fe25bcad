package capacity

import (
	"math"
	"strings"
	"testing"
)

func TestParseSize(t *testing.T) {
	for s, want := range map[string]int64{
		"4096": 4096, "0": 0, "1B": 1, "180KB": 180 * KiB, "180K": 180 * KiB, "180KiB": 180 * KiB,
		"512MiB": 512 * MiB, "512MB": 512 * MiB, "512m": 512 * MiB, "1GiB": GiB, "2TB": 2 * TiB, "1gib": GiB,
		" 17 MiB ": 17 * MiB, "1.5GiB": 3 * GiB / 2, "0.1KB": 102, "2.0": 2, "23.54GB": 25275882536,
		"9223372036854775807": math.MaxInt64, "8796093022207M": 8796093022207 * MiB,
	} {
		if got, err := ParseSize(s); err != nil || got != want {
			t.Errorf("ParseSize(%q) = %d, %v; want %d", s, got, err, want)
		}
	}
}

func TestParseSizeErrors(t *testing.T) {
	for s, want := range map[string]string{
		"": "empty", "  ": "empty", "-1": "negative", "-5MB": "negative",
		"MB": "number", "+5MB": "number", "1e9": "number", "0x10": "number", ".5MB": "number", "5.MB": "number", "1..5MB": "number", "1,5MB": "number",
		"max": "unit", "5 XB": "unit", "5MBs": "unit", "5Kib/s": "unit", "5ib": "unit",
		"9223372036854775808": "too large", "8388608TB": "too large", "8388607.9999999TB": "decimals", "99999999999999999999": "too large",
		"1.5": "whole", "1.5B": "whole",
	} {
		if got, err := ParseSize(s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseSize(%q) = %d, %v; want an error about %q", s, got, err, want)
		}
	}
}

func TestFormatSize(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0B", 1: "1B", 1023: "1023B", 1024: "1KB", 6144: "6KB", 180 * KiB: "180KB", 6500: "6500B", 10001: "9.77KB",
		192 * MiB: "192MB", 512 * MiB: "512MB", GiB: "1GB", 1152 * MiB: "1152MB", 3 * GiB / 2: "1536MB", 4096 * GiB: "4TB",
		24684084 * KiB: "23.54GB", 5*MiB + 1: "5MB", math.MaxInt64: "8388608TB", -4096: "-4KB", math.MinInt64: "-8388608TB",
	} {
		if got := FormatSize(n); got != want {
			t.Errorf("FormatSize(%d) = %q, want %q", n, got, want)
		}
	}
}

// Whatever is accepted is not negative, and comes back from its own digits.
func FuzzParseSize(f *testing.F) {
	for _, s := range []string{"512MiB", "180KB", "4096", "1.5GiB", "-1", "8388607.999999TB", "0.000001T", "٣MB", "1 B"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := ParseSize(s)
		if err != nil {
			return
		}
		if n < 0 {
			t.Fatalf("ParseSize(%q) = %d", s, n)
		}
		again, err := ParseSize(FormatSize(n))
		if err != nil {
			if n < math.MaxInt64-TiB { // rounding up may pass the end
				t.Fatalf("ParseSize(FormatSize(%d) = %q): %v", n, FormatSize(n), err)
			}
			return
		}
		if diff := math.Abs(float64(again) - float64(n)); diff > float64(n)/100 {
			t.Fatalf("%d became %q, %d", n, FormatSize(n), again)
		}
	})
}
