package link

// Filled is closed when a receiver that nobody reads has taken all that it takes.
func (r *Receiver) Filled() <-chan struct{} {
	full := make(chan struct{})
	go func() {
		defer close(full)
		r.mu.Lock()
		defer r.mu.Unlock()
		for i := range r.came {
			for r.came[i] == nil && !r.over() {
				r.changed.Wait()
			}
		}
	}()
	return full
}
