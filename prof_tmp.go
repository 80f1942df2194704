package main

import (
	"os"
	"os/signal"
	"runtime/pprof"
	"syscall"
)

func init() {
	p := os.Getenv("TL_PROF")
	if p == "" {
		return
	}
	f, _ := os.Create(p)
	pprof.StartCPUProfile(f)
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGTERM, syscall.SIGINT)
	go func() { <-c; pprof.StopCPUProfile(); f.Close(); os.Exit(0) }()
}
