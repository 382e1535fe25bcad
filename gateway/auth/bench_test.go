package auth

import "testing"

// BenchmarkVerify is what one good token costs, by algorithm; refused is one whose
// signature is wrong, which is what a flood sends.
func BenchmarkVerify(b *testing.B) {
	tokens := every(b)
	for _, c := range []struct {
		name, token string
		want        Reason
	}{
		{"HS256", mint(b, "HS256", secret, good()), OK},
		{"RS256", mint(b, "RS256", rsaKey(), good()), OK},
		{"ES256", mint(b, "ES256", ecKey(), good()), OK},
		{"EdDSA", mint(b, "EdDSA", edKey(), good()), OK},
		{"refused", mint(b, "HS256", secret[1:], good()), Signature},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, why := tokens.Verify(c.token); why != c.want {
					b.Fatal(why)
				}
			}
		})
	}
}
