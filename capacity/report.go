package capacity

// Report is a Result with what it is made of and what follows from it: what
// `odin capacity --json` prints and the gateway shows of itself.
type Report struct {
	Result
	Terms      []Term `json:"terms"`
	Budgets    Shares `json:"budgets"`
	GoMemLimit int64  `json:"gomemlimit"` // bytes
	Sentence   string `json:"sentence"`
}

// Report works the parts out. Its error is that of Budgets.
func (r Result) Report() (Report, error) {
	process, err := r.ProcessTerms()
	if err != nil {
		return Report{}, err
	}
	budgets, err := Budgets(r.Limit.Bytes, r.RuntimeOverhead)
	if err != nil {
		return Report{}, err
	}
	return Report{
		Result: r, Terms: append(r.ConnectionTerms(), process...), Budgets: budgets,
		GoMemLimit: r.GoMemLimit(), Sentence: r.Sentence(),
	}, nil
}
