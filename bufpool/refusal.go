package bufpool

import "fmt"

// refusal is an ErrBudget with its figures. It is formatted only when read: a
// gateway under pressure refuses often and logs seldom.
type refusal struct {
	want          int   // bytes asked for
	inUse, budget int64 // bytes at the time
}

// refuse counts a refusal and returns its error.
func (p *Pool) refuse(n int) error {
	p.refused.Add(1)
	return &refusal{want: n, inUse: p.InUse(), budget: p.Budget()}
}

func (r *refusal) Error() string {
	return fmt.Sprintf("bufpool: %v: %d bytes wanted, %d of %d in use", ErrBudget, r.want, r.inUse, r.budget)
}

func (r *refusal) Unwrap() error { return ErrBudget }
