package capacity

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Binary sizes, bytes. KB and KiB are the same here, and so on up.
const (
	KiB = 1 << (10 * (iota + 1))
	MiB
	GiB
	TiB
)

// units are what ParseSize knows, in any case, and FormatSize prints (the
// second of each row).
var units = []struct {
	bytes int64
	names [3]string
}{
	{1, [3]string{"", "B", "B"}},
	{KiB, [3]string{"K", "KB", "KiB"}},
	{MiB, [3]string{"M", "MB", "MiB"}},
	{GiB, [3]string{"G", "GB", "GiB"}},
	{TiB, [3]string{"T", "TB", "TiB"}},
}

// ParseSize reads a size like "512MiB", "180KB", "1.5 GiB" or "4096" (bytes).
// 1 KB = 1 KiB = 1K = 1024 bytes, up to T; case does not matter. With a unit
// above B up to six decimals are taken, and what they leave of a byte is
// dropped. Signs, exponents and sizes beyond 2^63-1 are errors that quote s.
func ParseSize(s string) (int64, error) {
	trimmed := strings.TrimSpace(s)
	end := strings.LastIndexAny(trimmed, "0123456789.") + 1
	number, name := trimmed[:end], strings.TrimSpace(trimmed[end:])
	switch {
	case trimmed == "":
		return 0, fmt.Errorf("size %q is empty: want something like 512MiB", s)
	case strings.HasPrefix(trimmed, "-"):
		return 0, fmt.Errorf("size %q is negative", s)
	}
	scale := int64(0)
	for _, u := range units {
		for _, n := range u.names {
			if strings.EqualFold(name, n) {
				scale = u.bytes
			}
		}
	}
	if scale == 0 {
		return 0, fmt.Errorf("size %q has the unknown unit %q: want B, KB, MB, GB, TB or KiB, MiB, GiB, TiB", s, name)
	}
	whole, fraction, dotted := strings.Cut(number, ".")
	if !digits(whole) || dotted && !digits(fraction) {
		return 0, fmt.Errorf("size %q does not begin with a number: want something like 512MiB", s)
	}
	n, err := strconv.ParseInt(whole, 10, 64)
	if err != nil || n > math.MaxInt64/scale {
		return 0, fmt.Errorf("size %q is too large", s)
	}
	rest, err := fractionOf(fraction, scale)
	if err != nil {
		return 0, fmt.Errorf("size %q %w", s, err)
	}
	if n*scale > math.MaxInt64-rest {
		return 0, fmt.Errorf("size %q is too large", s)
	}
	return n*scale + rest, nil
}

// fractionOf returns 0.digits of scale, bytes.
func fractionOf(digits string, scale int64) (int64, error) {
	digits = strings.TrimRight(digits, "0")
	if digits == "" {
		return 0, nil
	}
	f, err := strconv.ParseFloat("0."+digits, 64)
	if err != nil || len(digits) > 6 {
		return 0, fmt.Errorf("has more than six decimals")
	}
	if scale == 1 {
		return 0, fmt.Errorf("is not a whole number of bytes")
	}
	return int64(f * float64(scale)), nil
}

func digits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

// FormatSize writes n bytes for people: in the largest unit in which it is a
// whole number below 10 000 (6KB, 192MB, 1152MB, 6500B), else in the largest
// unit it reaches with up to two decimals (23.54GB). Negative sizes keep their sign.
func FormatSize(n int64) string {
	if n < 0 {
		return "-" + FormatSize(-max(n, -math.MaxInt64))
	}
	reached := 0
	for i := len(units) - 1; i >= 0; i-- {
		u := units[i].bytes
		if n%u == 0 && n/u < 10_000 && (n != 0 || i == 0) {
			return formatIn(n, i)
		}
		if n >= u && reached == 0 {
			reached = i
		}
	}
	return formatIn(n, reached)
}

// formatIn writes n bytes in the unit with index i: whole if it is, else with
// up to two decimals.
func formatIn(n int64, i int) string {
	s := strconv.FormatInt(n/units[i].bytes, 10)
	if n%units[i].bytes != 0 {
		s = strconv.FormatFloat(float64(n)/float64(units[i].bytes), 'f', 2, 64)
		s = strings.TrimSuffix(strings.TrimRight(s, "0"), ".")
	}
	return s + units[i].names[1]
}
