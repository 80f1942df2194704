// Package reflection owns asking an endpoint, by gRPC server reflection, which protobuf services and methods it offers, and
// keeping the file descriptors that it sends. It must not judge the answer: who is routed where is decided by discovery/hub
// and policy.
//
// Ask puts one question to one address. Prober keeps a set of addresses asked: at once when an address appears, quickly
// with backoff while it fails, every half minute or so after that, and soon when somebody saw that a server may have been
// restarted (Recheck). What it keeps of descriptors is shared between equal answers and bounded in all (shelf).
package reflection
