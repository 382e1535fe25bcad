package market

import (
	"fmt"
	"math"
	"math/rand/v2"
	"sort"
	"strconv"
	"time"
)

// The shape of the synthetic market, and where each number is from. Measured
// on the recordings in shared/data (a = binance-burst-60s, b = multi-venue-31s):
//
//	                                   a                       b
//	events in 100 ms / mean   p10 .25 p50 .49 p90     p10 .73 p50 .94 p90
//	                          2.2 p99 7.4 max 16      1.3 p99 1.9 max 8.2
//	lag-1 autocorrelation     .51                     .17
//	interarrival              CV 2.3, p50 11 µs,      CV 1.7, p50 125 µs,
//	                          p90 2.3 ms, p99 9 ms    p90 1.5 ms, p99 3.7 ms
//	clumps (gaps < 100 µs)    mean 2.4, p90 4,        mean 1.8, p90 3,
//	                          p99 17                  p99 11
//	line bytes                p50 211 p90 335         p50 230 p90 446
//	                          p99 2294                p99 1750
//	data bytes                p50 140 p90 258         p50 153 p90 380
//	                          p99 2222                p99 1685
//	kinds                     bbo 61 % trade 24 %     book 88 % bbo 7 %
//	                          book 15 %               trade 2 %
//	symbols                   6                       311: top 6.6 %, 10th 1.6 %
//
// Synth follows a's bursts (they are the market's, b's are constructed) and
// b's line sizes and number of symbols:
//
//   - The rate of each 100 ms is the mean times floor + (1-floor)·L with L
//     log-normal of mean 1, σ = 1.35, its logarithm an AR(1) with ρ = 0.7.
//   - Within it, clumps come as a Poisson process; their sizes have a power
//     law's tail. A clump is one taker order on one symbol: its trades, the
//     new best prices, perhaps the book's changes.
//   - Symbols are drawn by Zipf's law with exponent 0.8 (of 100: the first has
//     13 % of the events, the first ten 45 %).
//   - Prices are geometric walks, drawn back to their start with a half-life
//     of ten minutes, and rounded to a tick.
const (
	window      = 100 * time.Millisecond
	burstFloor  = 0.15
	burstSigma  = 1.35
	burstRho    = 0.7
	clumpTail   = 1.6 // exponent of P(size ≥ k) ~ k^-clumpTail
	clumpMost   = 150
	clumpGap    = 12 * time.Microsecond // mean, at up to 2000 events a second
	zipfExp     = 0.8
	bookShare   = 0.55 // of the clumps that change the book
	volatility  = 1e-4 // of the log price, per square root of a second
	priceReturn = 600 * time.Second
)

// SynthConfig configures a Synth; zero values are defaults.
type SynthConfig struct {
	Symbols int       // number of symbols, each with a trade, bbo and book channel; 0 means 100
	Rate    float64   // mean events a second of the synthetic clock; 0 means 1000
	Seed    uint64    // same seed (and Symbols, Rate, Start): same events; 0 is a seed like any other
	Start   time.Time // of the synthetic clock; zero means 2026-01-01T00:00:00Z
}

// Synth is an endless, deterministic market: the same configuration gives the
// same events, byte for byte, on the same processor architecture (floating
// point may be fused differently on another). Not for concurrent use.
type Synth struct {
	rng     *rand.Rand
	symbols []symbol
	weights []float64 // cumulative, to 1

	clumpEach float64 // ns, mean from one clump's end to the next's start
	clumpGap  float64 // ns, mean within a clump
	now       int64   // ns, time of the last event
	windowEnd int64   // ns, when the burst factor changes
	level     float64 // the AR(1) state, standard normal
	factor    float64 // of the rate, in this window

	queue []Event // the rest of the current clump
	at    int     // next of queue
}

// symbol is one instrument's state.
type symbol struct {
	trade, bbo, book string // channel names
	name             string
	base             float64 // log of the starting price, in ticks
	price            float64 // log of the mid price, in ticks
	decimals         int     // of a price; a tick is 10^-decimals
	lot              float64 // typical size
	moved            int64   // ns, when price was last moved
	tradeID, update  int64
}

// tickers name the first symbols; the venue SYNTH says that they are made up.
var tickers = []struct {
	name  string
	price float64
}{
	{"BTC-USD", 61650}, {"ETH-USD", 2680}, {"SOL-USD", 156.4}, {"XRP-USD", 0.6123}, {"BNB-USD", 512.3},
	{"DOGE-USD", 0.10312}, {"ADA-USD", 0.3471}, {"AVAX-USD", 22.14}, {"LINK-USD", 10.41}, {"DOT-USD", 4.632},
	{"LTC-USD", 60.12}, {"UNI-USD", 6.201}, {"ATOM-USD", 4.871}, {"NEAR-USD", 3.912}, {"APT-USD", 5.93},
	{"ARB-USD", 0.5441}, {"OP-USD", 1.372}, {"FIL-USD", 3.642}, {"INJ-USD", 18.22}, {"SUI-USD", 0.9213},
}

// NewSynth returns a market at the beginning of its clock.
func NewSynth(c SynthConfig) *Synth {
	if c.Symbols <= 0 {
		c.Symbols = 100
	}
	if c.Rate <= 0 {
		c.Rate = 1000
	}
	if c.Start.IsZero() {
		c.Start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	s := &Synth{
		rng:      rand.New(rand.NewPCG(c.Seed, 0x6f64696e)),
		symbols:  make([]symbol, c.Symbols),
		weights:  make([]float64, c.Symbols),
		clumpGap: float64(clumpGap) * min(1, 2000/c.Rate),
		now:      c.Start.UnixNano(),
	}
	s.clumpEach = clumpMean() * (1e9/c.Rate - s.clumpGap)
	s.windowEnd = s.now
	s.level = s.rng.NormFloat64()
	sum := 0.0
	for i := range s.symbols {
		s.symbols[i] = s.newSymbol(i)
		sum += math.Pow(float64(i+1), -zipfExp)
		s.weights[i] = sum
	}
	for i := range s.weights {
		s.weights[i] /= sum
	}
	return s
}

func (s *Synth) newSymbol(i int) symbol {
	name, price := fmt.Sprintf("S%03d-USD", i+1), math.Exp(s.rng.NormFloat64()*2+2)
	if i < len(tickers) {
		name, price = tickers[i].name, tickers[i].price
	}
	// Five significant digits or so, as exchanges choose their ticks.
	decimals := min(max(5-int(math.Ceil(math.Log10(price))), 1), 8)
	ticks := math.Log(price * math.Pow10(decimals))
	return symbol{
		trade: "trade.SYNTH." + name, bbo: "bbo.SYNTH." + name, book: "book.SYNTH." + name, name: name,
		base: ticks, price: ticks, decimals: decimals,
		lot: 5000 / price, moved: s.now,
		tradeID: s.rng.Int64N(1e9), update: s.rng.Int64N(1e12),
	}
}

// Next returns the next event; there is no last one. TS never decreases.
func (s *Synth) Next() Event {
	if s.at == len(s.queue) {
		s.clump()
	}
	e := s.queue[s.at]
	s.queue[s.at] = Event{} // its data is the receiver's now
	s.at++
	return e
}

// clump moves the clock to the next clump of events and fills the queue.
func (s *Synth) clump() {
	s.queue, s.at = s.queue[:0], 0
	s.step()
	sym := &s.symbols[sort.SearchFloat64s(s.weights, s.rng.Float64())]
	sym.move(s.now, s.rng)
	n := clumpSize(s.rng.Float64())
	buy := s.rng.IntN(2) == 0
	kind := s.rng.Float64()
	book := s.rng.Float64() < bookShare
	for i := range n {
		var e Event
		switch {
		case i == n-1 && book:
			e = s.depth(sym)
		case i == 0 && (n > 1 || kind < 0.15), i < n/2:
			e = s.tradeEvent(sym, buy)
		default:
			e = s.bestPrices(sym)
		}
		s.queue = append(s.queue, e)
		s.now += int64(s.rng.ExpFloat64() * s.clumpGap)
	}
}

// step moves the clock by one gap between clumps. When the gap crosses into
// windows with another rate, what is left of it passes at theirs.
func (s *Synth) step() {
	due := s.rng.ExpFloat64() * s.clumpEach // at factor 1
	for {
		if s.now >= s.windowEnd {
			s.level = burstRho*s.level + math.Sqrt(1-burstRho*burstRho)*s.rng.NormFloat64()
			s.factor = burstFloor + (1-burstFloor)*math.Exp(burstSigma*s.level-burstSigma*burstSigma/2)
			s.windowEnd += int64(window)
			continue
		}
		left := float64(s.windowEnd-s.now) * s.factor
		if due < left {
			s.now += int64(due / s.factor)
			return
		}
		due -= left
		s.now = s.windowEnd
	}
}

// clumpSize maps a uniform number to a size ≥ 1 with a power law's tail.
func clumpSize(u float64) int {
	return int(min(math.Pow(1-u, -1/clumpTail), clumpMost))
}

// clumpMean is the mean of clumpSize: the sum of P(size ≥ k).
func clumpMean() float64 {
	sum := 0.0
	for k := 1; k <= clumpMost; k++ {
		sum += math.Pow(float64(k), -clumpTail)
	}
	return sum
}

// move lets the price walk until now.
func (y *symbol) move(now int64, rng *rand.Rand) {
	dt := float64(now-y.moved) / 1e9
	y.moved = now
	y.price += (y.base-y.price)*(1-math.Exp(-dt*math.Ln2/priceReturn.Seconds())) +
		volatility*math.Sqrt(dt)*rng.NormFloat64()
}

// bid is the best bid in ticks; the best ask is spread ticks above.
func (y *symbol) bid() int64 { return max(int64(math.Exp(y.price)), 2) }

func (s *Synth) size(y *symbol) float64 {
	return y.lot * math.Exp(1.2*s.rng.NormFloat64())
}

func (s *Synth) tradeEvent(y *symbol, buy bool) Event {
	y.tradeID++
	price, side := y.bid(), "sell"
	if buy {
		price, side = price+1, "buy"
	}
	b := s.open("trade", y, 192)
	b = append(b, `,"trade_id":`...)
	b = strconv.AppendInt(b, y.tradeID, 10)
	b = y.appendPrice(append(b, `,"price":"`...), price)
	b = s.appendSize(append(b, `","size":"`...), y)
	b = append(b, `","side":"`...)
	b = append(b, side...)
	b = append(b, `"}`...)
	return Event{TS: s.now, Channel: y.trade, Data: b}
}

func (s *Synth) bestPrices(y *symbol) Event {
	y.update += 1 + s.rng.Int64N(40)
	bid := y.bid()
	b := s.open("bbo", y, 208)
	b = append(b, `,"update_id":`...)
	b = strconv.AppendInt(b, y.update, 10)
	b = y.appendPrice(append(b, `,"bid":"`...), bid)
	b = s.appendSize(append(b, `","bid_size":"`...), y)
	b = y.appendPrice(append(b, `","ask":"`...), bid+1+s.rng.Int64N(2))
	b = s.appendSize(append(b, `","ask_size":"`...), y)
	b = append(b, `"}`...)
	return Event{TS: s.now, Channel: y.bbo, Data: b}
}

// depth is a book update: levels that changed near the best prices.
func (s *Synth) depth(y *symbol) Event {
	levels := int(min(math.Exp(2.0+1.2*s.rng.NormFloat64()), 400)) + 1
	prev := y.update
	y.update += int64(levels) + s.rng.Int64N(60)
	bid := y.bid()
	b := s.open("book", y, 160+24*levels)
	b = append(b, `,"first":`...)
	b = strconv.AppendInt(b, prev+1, 10)
	b = append(b, `,"last":`...)
	b = strconv.AppendInt(b, y.update, 10)
	nbid := s.rng.IntN(levels + 1)
	b = append(b, `,"bids":[`...)
	b = s.appendLevels(b, y, bid, -1, nbid)
	b = append(b, `],"asks":[`...)
	b = s.appendLevels(b, y, bid+1, +1, levels-nbid)
	b = append(b, `]}`...)
	return Event{TS: s.now, Channel: y.book, Data: b}
}

func (s *Synth) appendLevels(b []byte, y *symbol, from, dir int64, n int) []byte {
	for i := range n {
		if i > 0 {
			b = append(b, ',')
		}
		b = y.appendPrice(append(b, `["`...), max(from, 1))
		b = append(b, `","`...)
		if s.rng.IntN(3) == 0 {
			b = append(b, '0') // the level is gone
		} else {
			b = s.appendSize(b, y)
		}
		b = append(b, `"]`...)
		from += dir * (1 + s.rng.Int64N(5))
	}
	return b
}

func (s *Synth) open(kind string, y *symbol, size int) []byte {
	b := make([]byte, 0, size)
	b = append(b, `{"type":"`...)
	b = append(b, kind...)
	b = append(b, `","symbol":"`...)
	b = append(b, y.name...)
	b = append(b, `","time":"`...)
	b = time.Unix(0, s.now).UTC().AppendFormat(b, "2006-01-02T15:04:05.000000Z")
	return append(b, '"')
}

// appendPrice writes ticks as a decimal number, exactly.
func (y *symbol) appendPrice(b []byte, ticks int64) []byte {
	digits := strconv.AppendInt(nil, ticks, 10)
	for len(digits) <= y.decimals {
		digits = append([]byte{'0'}, digits...)
	}
	whole := len(digits) - y.decimals
	b = append(b, digits[:whole]...)
	b = append(b, '.')
	return append(b, digits[whole:]...)
}

func (s *Synth) appendSize(b []byte, y *symbol) []byte {
	return strconv.AppendFloat(b, s.size(y), 'f', 4, 64)
}
