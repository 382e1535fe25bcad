package jetstream

import (
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"

	"github.com/odin-ws/odin/gateway/broker"
)

// API error codes, from nats-server's errors.json.
const (
	codeInsufficient   = 10023 // insufficient resources
	codeMemoryExceeded = 10028 // memory resources exceeded
	codeNoMessage      = 10037 // no message found
	codeStorage        = 10047 // insufficient storage resources
	codeAccountFull    = 10002 // account resource limit exceeded
	codeTooLarge       = 10054 // message size exceeds maximum
	codeStreamMissing  = 10059 // stream not found
	codeStoreFailed    = 10077 // maximum bytes or messages exceeded, store error
	codeTooManyReqs    = 10167 // the stream's inbound queue is full
)

// apiError is the error of a JetStream API answer or of a publish ack.
type apiError struct {
	Code        int    `json:"code"`
	ErrCode     int    `json:"err_code"`
	Description string `json:"description"`
}

func (e *apiError) Error() string { return fmt.Sprintf("%s (%d)", e.Description, e.ErrCode) }

// refused maps the error in a publish ack: the message was not stored. throttles says
// that the account has no limit but the one that nodes set while memory is short.
func refused(e *apiError, throttles bool) error {
	switch e.ErrCode {
	case codeAccountFull:
		if throttles {
			return fmt.Errorf("%w: the store of the stream's leader holds as much as memory has room for", broker.ErrBusy)
		}
		return fmt.Errorf("%w: %w", broker.ErrFull, e)
	case codeInsufficient, codeMemoryExceeded, codeStorage, codeStoreFailed, codeTooManyReqs:
		return fmt.Errorf("%w: %w", broker.ErrFull, e)
	case codeTooLarge:
		return fmt.Errorf("%w: %w", broker.ErrTooLarge, e)
	}
	if e.Code == 503 {
		return fmt.Errorf("%w: %w", broker.ErrDown, e)
	}
	return fmt.Errorf("jetstream refused the message: %w", e)
}

// unsent maps an error of the client library's publish. Unless it is one that
// comes before the message is buffered, part of it may have gone out.
func unsent(err error) error {
	switch {
	case errors.Is(err, nats.ErrMaxPayload):
		return fmt.Errorf("%w: %w", broker.ErrTooLarge, err)
	case errors.Is(err, nats.ErrReconnectBufExceeded), errors.Is(err, nats.ErrConnectionClosed),
		errors.Is(err, nats.ErrConnectionDraining):
		return fmt.Errorf("%w: %w", broker.ErrDown, err)
	case errors.Is(err, nats.ErrBadSubject):
		return err
	}
	return fmt.Errorf("%w: %w", broker.ErrUncertain, err)
}

// unanswered maps an error of a read request: every failure is one to try again.
func unanswered(err error) error {
	if errors.Is(err, broker.ErrNotFound) || errors.Is(err, broker.ErrDown) {
		return err
	}
	return fmt.Errorf("%w: %w", broker.ErrDown, err)
}
