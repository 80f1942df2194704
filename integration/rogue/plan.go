package rogue

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"
)

// Parse reads a plan: a script per attempt, separated by "|"; each is a word, with arguments after a colon. Numbers are gRPC
// statuses or HTTP/2 codes, durations Go's:
//
//	ok  big:BYTES  trailers:STATUS[,PUSHBACK...]  message:STATUS  only:STATUS  pushback:STATUS,VALUE[,VALUE]
//	reset:CODE  unread:CODE  refused  headers-reset:CODE  partial-reset:CODE
//	slow:HEADERS[,MESSAGE[,TRAILERS]]  silent  headers-silent  early  early-only:STATUS
//	cut-unread  cut  cut-response  goaway  goaway-graceful  http:STATUS  cuts:NUMBER  cuts-fail:NUMBER (with UNAVAILABLE)
func Parse(text string) ([]Script, error) {
	var plan []Script
	for step := range strings.SplitSeq(text, "|") {
		word, rest, _ := strings.Cut(step, ":")
		var args []string
		if rest != "" {
			args = strings.Split(rest, ",")
		}
		s, err := parseStep(word, args)
		if err != nil {
			return nil, fmt.Errorf("plan %q: %q: %w", text, step, err)
		}
		plan = append(plan, s)
	}
	return plan, nil
}

// numbered are the scripts with one number.
func numbered(word string, n int) Script {
	status, code := codes.Code(n), http2.ErrCode(n)
	switch word {
	case "big":
		return Big(n)
	case "trailers":
		return Trailers(status)
	case "message":
		return MessageThenTrailers(status)
	case "only":
		return Only(status, "rogue: Trailers-Only")
	case "reset":
		return Reset(code)
	case "unread":
		return ResetUnread(code)
	case "headers-reset":
		return HeadersReset(code)
	case "partial-reset":
		return PartialReset(code)
	case "early-only":
		return EarlyOnly(status)
	case "http":
		return HTTP(n)
	case "cuts":
		return Cuts(n)
	case "cuts-fail":
		return CutsFailing(n, codes.Unavailable)
	}
	return nil
}

// plain are the scripts without arguments.
func plain(word string) Script {
	switch word {
	case "ok":
		return OK()
	case "refused":
		return ResetUnread(http2.ErrCodeRefusedStream)
	case "silent":
		return Silent()
	case "headers-silent":
		return HeadersSilent()
	case "early":
		return EarlyReply()
	case "cut-unread":
		return CutUnread()
	case "cut":
		return CutExecuted()
	case "cut-response":
		return CutMidResponse()
	case "goaway":
		return GoAwayRefuse()
	case "goaway-graceful":
		return GoAwayGraceful()
	}
	return nil
}

func parseStep(word string, args []string) (Script, error) {
	switch {
	case word == "slow":
		var d [3]time.Duration
		if len(args) < 1 || len(args) > len(d) {
			return nil, fmt.Errorf("%d durations, want 1 to 3", len(args))
		}
		for i, a := range args {
			var err error
			if d[i], err = time.ParseDuration(a); err != nil {
				return nil, err
			}
		}
		return Slow(d[0], d[1], d[2]), nil
	case word == "trailers" && len(args) >= 2:
		n, err := strconv.Atoi(args[0])
		return Trailers(codes.Code(n), pushbacks(args[1:])...), err
	case word == "pushback" && len(args) >= 2:
		n, err := strconv.Atoi(args[0])
		return Pushback(codes.Code(n), args[1:]...), err
	case len(args) == 0:
		if s := plain(word); s != nil {
			return s, nil
		}
	case len(args) == 1:
		n, err := strconv.Atoi(args[0])
		if err != nil {
			return nil, err
		}
		if s := numbered(word, n); s != nil {
			return s, nil
		}
	}
	return nil, fmt.Errorf("no such script with %d arguments", len(args))
}
