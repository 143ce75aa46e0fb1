"""MvCoM: fine-tuning a recogniser with margins learned across pose, occlusion, blur and group."""
