// Package probe shows what a cluster does to those who use it: it sends keyed messages and looks
// old ones up without a pause, keeps account of every one of them, and says from when to when
// nothing went through.
//
// The outage of the cluster itself and the one that an application sees are two things.
// FreshSender and FreshReader ask the name servers before each request and so see the first.
// ClientSender is an application: a rocketmq-client-go producer with its own idea of the route,
// which it renews every 30 s, and so sees the second.
//
// Everything that probe runs is a value with a Run method, which returns when its context ends and
// leaves nothing running behind.
package probe
