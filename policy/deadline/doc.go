// Package deadline owns the arithmetic of a call's time: what of caller's and policy's deadline holds, what an attempt is given,
// and whether it is too late to begin; it must not set timers or read a clock.
package deadline
