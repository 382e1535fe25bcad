//go:build !bufpooldebug

package bufpool

// debugging tells the builds apart; see debug_on.go for the other.
const debugging = false

type debugState struct{}

func (debugState) made([]byte)           {}
func (debugState) reused([]byte)         {}
func (debugState) check([]byte)          {}
func (debugState) poison([]byte)         {}
func (debugState) dropped([]byte)        {}
func (debugState) discarded([]byte)      {}
func (debugState) outstanding() []string { return nil }
