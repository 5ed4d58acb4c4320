// Package fleet lets the calls of a model begin, for all processes together (DB3): within the requests and tokens a
// minute that an endpoint takes, not before it wants to be asked again, not while it fails, and within a budget.
//
// Start with [New]; [Gate.Enter] waits until a call may begin, and what it returns is told how the call ended. One
// step in Redis decides all of it ([enter.lua]), by the clock of Redis. A call is a lease: the place and the money
// of one whose process has died are booked when it runs out, the money as it was reserved. Without Redis nothing is
// paid for.
//
// Nothing here knows what is asked, or which endpoint is taken next.
package fleet
